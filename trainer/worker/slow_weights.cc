#include "trainer/worker/slow_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "gossip/outer/compress.h"
#include "gossip/outer/outer_step.h"

namespace starling::trainer {
namespace {

outer::Compression compression_of(Encoding encoding) {
  return encoding == Encoding::bf16 ? outer::Compression::bf16 : outer::Compression::none;
}

// No exponent of ones, which is an infinity or a NaN: one more than that carries into the bit of the sign. Without a
// comparison, so that it vectorises; in blocks, so that the first bad one ends it soon.
template <typename Word>
bool finite(ByteView bytes, Word exponent) {
  constexpr std::size_t block = 4096;
  constexpr Word sign = Word{1} << (8 * sizeof(Word) - 1);
  const Word lowest = exponent & (~exponent + 1);
  const std::size_t count = bytes.size() / sizeof(Word);
  for (std::size_t start = 0; start < count; start += block) {
    const std::size_t end = std::min(count, start + block);
    Word seen = 0;
    for (std::size_t i = start; i < end; ++i) {
      Word word;
      std::memcpy(&word, bytes.data() + i * sizeof word, sizeof word);
      seen |= static_cast<Word>((word & exponent) + lowest);
    }
    if ((seen & sign) != 0) return false;
  }
  return true;
}

// The blocks alone: stage 0 also has embedding, final norm and head around them.
std::span<const float> blocks_of(const ModelConfig& model, Stage stage, std::span<const float> flat) {
  if (stage != 0) return flat;
  const auto embedding = static_cast<std::size_t>(model.vocab_size * model.hidden_size);
  const std::size_t tail = static_cast<std::size_t>(model.hidden_size) + (model.tie_word_embeddings ? 0 : embedding);
  return flat.subspan(embedding, flat.size() - embedding - tail);
}

}  // namespace

std::size_t encoded_bytes(std::int64_t values, Encoding encoding) {
  return outer::compressed_bytes(static_cast<std::size_t>(values), compression_of(encoding));
}

Buffer encode_values(std::span<const float> values, Encoding encoding) {
  Bytes out;
  outer::compress(values, compression_of(encoding), out);
  return std::make_shared<const Bytes>(std::move(out));
}

Status check_size(std::size_t bytes, Encoding encoding, std::int64_t values) {
  const std::size_t expected = encoded_bytes(values, encoding);
  if (bytes == expected) return {};
  return fail(ErrorCode::bad_input, fmt::format("expected {} values in {} bytes, got {} bytes", values, expected, bytes));
}

Status decode_values(ByteView bytes, Encoding encoding, std::span<float> out) {
  if (Status ok = check_size(bytes.size(), encoding, static_cast<std::int64_t>(out.size())); !ok) return ok;
  outer::decompress(bytes, compression_of(encoding), out);
  if (!all_finite(out)) return fail(ErrorCode::bad_input, "expected finite values, got one that is not");
  return {};
}

Result<std::vector<float>> decode_part(const EncodedPart& part, std::int64_t values) {
  // Compared before anything is allocated.
  if (Status ok = check_size(part.bytes == nullptr ? 0 : part.bytes->size(), part.encoding, values); !ok) {
    return tl::unexpected(ok.error());
  }
  std::vector<float> out(static_cast<std::size_t>(values));
  if (Status ok = decode_values(*part.bytes, part.encoding, out); !ok) return tl::unexpected(ok.error());
  return out;
}

bool all_finite(std::span<const float> values) { return all_finite(std::as_bytes(values), Encoding::fp32); }
bool all_finite(ByteView bytes, Encoding encoding) {
  return encoding == Encoding::bf16 ? finite<std::uint16_t>(bytes, 0x7f80U) : finite<std::uint32_t>(bytes, 0x7f800000U);
}

SlowWeights::SlowWeights(std::vector<float> phi, std::vector<float> momentum)
    : phi_(std::move(phi)), momentum_(std::move(momentum)) {
  STARLING_CHECK(momentum_.empty() || momentum_.size() == phi_.size(), "momentum of another stage");
  momentum_.resize(phi_.size(), 0.0F);
}

std::vector<float> SlowWeights::delta_of(std::span<const float> theta) const {
  STARLING_CHECK(theta.size() == phi_.size(), "weights of another stage");
  std::vector<float> delta(phi_.size());
  for (std::size_t i = 0; i < delta.size(); ++i) delta[i] = theta[i] - phi_[i];
  // Weights that have left everything behind are no progress, though they may be finite still.
  constexpr double most_of_phi = 100.0;
  constexpr double least_of_phi = 0.01;  // root mean square that counts as phi's at least
  const double scale = std::max(outer::norm(phi_), least_of_phi * std::sqrt(static_cast<double>(phi_.size())));
  const double size = outer::norm(delta);
  if (!std::isfinite(size) || size > most_of_phi * scale) std::fill(delta.begin(), delta.end(), 0.0F);
  return delta;
}

Buffer SlowWeights::snapshot(std::span<const float> theta, Encoding encoding) {
  snapshot_delta_ = delta_of(theta);
  Bytes out;
  out.reserve(encoded_bytes(static_cast<std::int64_t>(2 * phi_.size()), encoding));
  outer::compress(phi_, compression_of(encoding), out);
  outer::compress(*snapshot_delta_, compression_of(encoding), out);
  return std::make_shared<const Bytes>(std::move(out));
}

OuterStepped SlowWeights::outer_step(std::span<const float> theta, const OuterStep& job) {
  const std::vector<float> delta = snapshot_delta_ ? *std::exchange(snapshot_delta_, std::nullopt) : delta_of(theta);
  const std::size_t count = phi_.size();
  OuterStepped out;
  std::vector<std::vector<float>> decoded;
  std::vector<outer::Contribution> others;
  for (const Buffer& buffer : job.others) {
    Result<std::vector<float>> values =
        decode_part({.bytes = buffer, .encoding = job.encoding}, static_cast<std::int64_t>(2 * count));
    if (!values) {
      ++out.rejected_non_finite;
      continue;
    }
    const std::span<const float> both(*values);
    const outer::Contribution other{.phi = both.first(count), .delta = both.subspan(count)};
    switch (outer::screen(phi_, delta, other)) {
      case outer::Screen::non_finite:
        ++out.rejected_non_finite;
        break;
      case outer::Screen::norm:
        ++out.rejected_norm;
        break;
      case outer::Screen::good:
        others.push_back(other);  // points into the vector that moves along: its values stay where they are
        decoded.push_back(std::move(*values));
        break;
    }
  }
  out.averaged_with = static_cast<std::int64_t>(others.size());
  if (!others.empty()) out.divergence = outer::relative_distance(phi_, others.front().phi);
  outer::outer_step(phi_, momentum_, delta, others,
                    {.alpha = static_cast<float>(job.alpha),
                     .beta = static_cast<float>(job.beta),
                     .gamma = static_cast<float>(job.gamma)});
  return out;
}

Result<std::vector<float>> average_of_neighbours(const ModelConfig& model, const std::vector<StageLayers>& cut,
                                                 const LoadFromNeighbours& job) {
  STARLING_CHECK(job.stage >= 0 && static_cast<std::size_t>(job.stage) < cut.size(), "a stage outside of the cut");
  if (job.stage == 0) return fail(ErrorCode::bad_input, "stage 0 cannot be made from its neighbours");
  if (!(job.left_weight >= 0.0 && job.left_weight <= 1.0)) {
    return fail(ErrorCode::bad_input, fmt::format("expected a weight from 0 to 1, got {}", job.left_weight));
  }
  const auto layers_of = [&](Stage stage) { return cut[static_cast<std::size_t>(stage)]; };
  const auto left = decode_part(job.left, parameter_count(model, layers_of(job.stage - 1), job.stage - 1));
  if (!left) return tl::unexpected(left.error());
  std::vector<float> right_values;
  if (job.right) {
    const Stage right_stage = job.stage + 1;
    if (static_cast<std::size_t>(right_stage) >= cut.size()) {
      return fail(ErrorCode::bad_input, "the last stage has no right neighbour");
    }
    Result<std::vector<float>> right =
        decode_part(*job.right, parameter_count(model, layers_of(right_stage), right_stage));
    if (!right) return tl::unexpected(right.error());
    right_values = std::move(*right);
  }

  const StageLayers own = layers_of(job.stage);
  const auto own_blocks = static_cast<std::size_t>(own.last - own.first);
  const std::size_t block = static_cast<std::size_t>(parameter_count(model, own, job.stage)) / own_blocks;
  const auto block_of = [&](std::span<const float> blocks, std::size_t j) {
    return blocks.subspan(std::min(j, blocks.size() / block - 1) * block, block);
  };
  const std::span<const float> left_blocks = blocks_of(model, job.stage - 1, *left);
  const auto weight = static_cast<float>(job.right ? job.left_weight : 1.0);
  std::vector<float> out;
  out.reserve(own_blocks * block);
  for (std::size_t j = 0; j < own_blocks; ++j) {
    const std::span<const float> a = block_of(left_blocks, j);
    const std::span<const float> b = job.right ? block_of(right_values, j) : a;
    for (std::size_t i = 0; i < block; ++i) out.push_back(weight * a[i] + (1.0F - weight) * b[i]);
  }
  return out;
}

}  // namespace starling::trainer
