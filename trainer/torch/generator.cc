#include "trainer/torch/generator.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "gossip/base/error.h"
#include "trainer/torch/kernels.h"
#include "trainer/torch/model.h"
#include "trainer/torch/ops.h"
#include "trainer/torch/parameters.h"
#include "trainer/torch/team.h"
#include "trainer/torch/token_kernels.h"

namespace starling::trainer {
namespace {

using kernels::Into;

constexpr std::int64_t line_floats = 16;  // of a cache line: two threads never write to the same one

std::int64_t rounded_up(std::int64_t count) { return (count + line_floats - 1) / line_floats * line_floats; }

struct Share {
  std::int64_t first = 0;
  std::int64_t count = 0;
};
// The part of `count` items that belongs to a thread; whole units but for the last.
Share share_of(std::int64_t count, std::int64_t unit, int thread, int threads) {
  const std::int64_t units = (count + unit - 1) / unit;
  const std::int64_t first = std::min(count, units * thread / threads * unit);
  const std::int64_t last = std::min(count, units * (thread + 1) / threads * unit);
  return {first, last - first};
}

at::Tensor tensor_of(std::span<const float> weights) {
  return at::from_blob(const_cast<float*>(weights.data()), {static_cast<std::int64_t>(weights.size())}, at::kFloat);
}

// The addresses of a block's weights, as in BlockParameters.
struct BlockWeights {
  const float* input_norm;
  const float* qkv;
  const float* output;
  const float* post_norm;
  const float* gate_up;
  const float* down;
};
BlockWeights addresses(const BlockParameters& block) {
  const auto of = [](const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); };
  return {of(block.input_norm), of(block.qkv),     of(block.output),
          of(block.post_norm),  of(block.gate_up), of(block.down)};
}

// Legend as in kernels.h.
struct Sizes {
  explicit Sizes(const ModelConfig& model)
      : hidden(model.hidden_size),
        inner(model.intermediate_size),
        heads(model.num_attention_heads),
        kv_heads(model.num_key_value_heads),
        head_dim(model.head_dim()),
        vocab(model.vocab_size) {}
  std::int64_t hidden, inner, heads, kv_heads, head_dim, vocab;
};

}  // namespace

struct Generator::Impl {
  // What a thread needs for itself.
  struct Scratch {
    std::vector<float> normed;   // [D]
    std::vector<float> gate_up;  // gate, then up, of its share of I
    std::vector<float> scores;   // [positions]
  };

  Impl(const ModelConfig& its_model, std::span<const float> flat, std::int64_t its_positions, int threads)
      : model(its_model), size(its_model), positions(its_positions), row(rounded_up(its_positions)), team(threads) {
    STARLING_CHECK(positions >= 1 && positions <= model.max_position_embeddings && threads >= 1,
                   "positions that the model has, and a thread");
    const c10::InferenceMode no_autograd;
    at::set_num_threads(threads);
    weights = view_parameters(model, {0, model.num_hidden_layers}, 0, tensor_of(flat));
    for (const BlockParameters& block : weights.blocks) blocks.push_back(addresses(block));
    rotary = ops::rotary_table(positions, size.head_dim, model.rope_theta, model.rope_scaling);
    const auto cache = static_cast<std::size_t>(size.kv_heads * size.head_dim * row);
    keys.assign(blocks.size(), std::vector<float>(cache));
    values = keys;
    const auto count = [](std::int64_t floats) { return static_cast<std::size_t>(rounded_up(floats)); };
    x.resize(count(size.hidden));
    qkv.resize(count((size.heads + 2 * size.kv_heads) * size.head_dim));
    attended.resize(count(size.heads * size.head_dim));
    inner.resize(count(size.inner));
    logits.resize(count(size.vocab));
    for (int thread = 0; thread < threads; ++thread) {
      const std::int64_t share = share_of(size.inner, line_floats, thread, threads).count;
      scratch.push_back({.normed = std::vector<float>(count(size.hidden)),
                         .gate_up = std::vector<float>(count(2 * share)),
                         .scores = std::vector<float>(count(positions))});
    }
  }

  // ---------------------------------------------------------------- one token, all threads

  // Every thread norms the whole vector for itself: that is cheaper than to wait for another.
  const float* norm(const float* from, const float* weight, Scratch& own) const {
    float rstd = 0.0F;
    kernels::rms_norm(from, weight, 1, size.hidden, static_cast<float>(model.rms_norm_eps), own.normed.data(), &rstd);
    return own.normed.data();
  }

  void rotate(float* head, std::int64_t position) const {
    const std::int64_t half = size.head_dim / 2;
    kernels::rotate(head, 0, 1,
                    {.width = size.head_dim,
                     .heads = 1,
                     .head_dim = size.head_dim,
                     .positions = 1,
                     .cosine = rotary.cosine.const_data_ptr<float>() + position * half,
                     .sine = rotary.sine.const_data_ptr<float>() + position * half},
                    kernels::Rotation::forward);
  }

  // A key or value of one head goes to its place in the cache.
  float* key_at(std::size_t block, std::int64_t kv_head, std::int64_t position) {
    return keys[block].data() + (kv_head * row + position) * size.head_dim;
  }
  // Values lie by dimension, so that their weighted sum is a matrix times a vector as well.
  float* value_at(std::size_t block, std::int64_t kv_head, std::int64_t position) {
    return values[block].data() + kv_head * size.head_dim * row + position;
  }
  void keep_key(std::size_t block, std::int64_t kv_head, std::int64_t position, const float* from) {
    std::copy_n(from, size.head_dim, key_at(block, kv_head, position));
  }
  void keep_value(std::size_t block, std::int64_t kv_head, std::int64_t position, const float* from) {
    float* const to = value_at(block, kv_head, position);
    for (std::int64_t i = 0; i < size.head_dim; ++i) to[i * row] = from[i];
  }

  // Queries, keys and values of some heads; what a thread has computed it also rotates and keeps.
  void project(std::size_t block, std::int64_t position, Share heads, const float* normed) {
    const std::int64_t d = size.head_dim;
    kernels::matrix_vector(blocks[block].qkv + heads.first * d * size.hidden, size.hidden, normed, heads.count * d,
                           size.hidden, Into::replace, qkv.data() + heads.first * d);
    for (std::int64_t head = heads.first; head < heads.first + heads.count; ++head) {
      float* const at = qkv.data() + head * d;
      if (head < size.heads + size.kv_heads) rotate(at, position);
      if (head >= size.heads + size.kv_heads) {
        keep_value(block, head - size.heads - size.kv_heads, position, at);
      } else if (head >= size.heads) {
        keep_key(block, head - size.heads, position, at);
      }
    }
  }

  // One query head against the cache.
  void attend(std::size_t block, std::int64_t position, std::int64_t head, std::vector<float>& scores) {
    const std::int64_t d = size.head_dim;
    const std::int64_t kv_head = head / (size.heads / size.kv_heads);
    const std::int64_t seen = position + 1;
    float* const out = attended.data() + head * d;
    kernels::matrix_vector(key_at(block, kv_head, 0), d, qkv.data() + head * d, seen, d, Into::replace, scores.data());
    const float sum = kernels::scaled_exponentials(scores.data(), seen, 1.0F / std::sqrt(static_cast<float>(d)));
    kernels::matrix_vector(value_at(block, kv_head, 0), row, scores.data(), d, seen, Into::replace, out);
    kernels::scale(out, d, 1.0F / sum);
  }

  // A share of the rows of matrix [rows, width] times `from`.
  void multiply(const float* matrix, std::int64_t rows, std::int64_t width, const float* from, Into into, float* out,
                int thread) const {
    const Share share = share_of(rows, line_floats, thread, team.size());
    kernels::matrix_vector(matrix + share.first * width, width, from, share.count, width, into, out + share.first);
  }

  void block_pass(std::size_t block, std::int64_t position, int thread) {
    const BlockWeights& w = blocks[block];
    Scratch& own = scratch[static_cast<std::size_t>(thread)];
    project(block, position, share_of(size.heads + 2 * size.kv_heads, 1, thread, team.size()),
            norm(x.data(), w.input_norm, own));
    team.meet();
    const Share queries = share_of(size.heads, 1, thread, team.size());
    for (std::int64_t i = 0; i < queries.count; ++i) attend(block, position, queries.first + i, own.scores);
    team.meet();
    multiply(w.output, size.hidden, size.heads * size.head_dim, attended.data(), Into::add, x.data(), thread);
    team.meet();
    const float* const normed = norm(x.data(), w.post_norm, own);
    const Share share = share_of(size.inner, line_floats, thread, team.size());
    float* const gate_up = own.gate_up.data();
    const float* const gate = w.gate_up + share.first * size.hidden;
    const float* const up = gate + size.inner * size.hidden;
    kernels::matrix_vector(gate, size.hidden, normed, share.count, size.hidden, Into::replace, gate_up);
    kernels::matrix_vector(up, size.hidden, normed, share.count, size.hidden, Into::replace, gate_up + share.count);
    kernels::swiglu(gate_up, 1, share.count, inner.data() + share.first);
    team.meet();
    multiply(w.down, size.hidden, size.inner, inner.data(), Into::add, x.data(), thread);
    team.meet();
  }

  void head_pass(int thread) {
    const float* const normed =
        norm(x.data(), weights.final_norm.const_data_ptr<float>(), scratch[static_cast<std::size_t>(thread)]);
    multiply(weights.head.const_data_ptr<float>(), size.vocab, size.hidden, normed, Into::replace, logits.data(),
             thread);
  }

  std::span<const float> next(std::int32_t id) {
    STARLING_CHECK(length < positions && id >= 0 && id < size.vocab, "a token of the vocabulary, and room for it");
    kernels::embed(weights.embedding.const_data_ptr<float>(), &id, 1, size.hidden, x.data());
    team.run([this](int thread) {
      for (std::size_t block = 0; block < blocks.size(); ++block) block_pass(block, length, thread);
      head_pass(thread);
    });
    ++length;
    return {logits.data(), static_cast<std::size_t>(size.vocab)};
  }

  // ---------------------------------------------------------------- the prompt

  std::span<const float> begin(std::span<const std::int32_t> prompt) {
    const auto count = static_cast<std::int64_t>(prompt.size());
    STARLING_CHECK(count >= 1 && count <= positions, "a prompt, and room for it");
    STARLING_CHECK(std::ranges::all_of(prompt, [&](std::int32_t id) { return id >= 0 && id < size.vocab; }),
                   "tokens of the vocabulary");
    length = 0;
    if (count == 1) return next(prompt.front());
    const c10::InferenceMode no_autograd;
    const Model whole(model, {.sequences = 1, .seq_len = count});
    at::Tensor rows = ops::embed(weights.embedding, prompt, at::kFloat);
    for (std::size_t block = 0; block < blocks.size(); ++block) {
      BlockSaved saved;
      rows = whole.block(weights.blocks[block], rows, &saved);
      keep(block, saved.qkv.const_data_ptr<float>(), count);
    }
    length = count;
    std::copy_n(rows.const_data_ptr<float>() + (count - 1) * size.hidden, size.hidden, x.begin());
    team.run([this](int thread) { head_pass(thread); });
    return {logits.data(), static_cast<std::size_t>(size.vocab)};
  }

  // Keys and values of `count` rows [(H + 2 K) d], from position 0.
  void keep(std::size_t block, const float* rows, std::int64_t count) {
    const std::int64_t d = size.head_dim;
    const std::int64_t width = (size.heads + 2 * size.kv_heads) * d;
    for (std::int64_t position = 0; position < count; ++position, rows += width) {
      for (std::int64_t kv_head = 0; kv_head < size.kv_heads; ++kv_head) {
        keep_key(block, kv_head, position, rows + (size.heads + kv_head) * d);
        keep_value(block, kv_head, position, rows + (size.heads + size.kv_heads + kv_head) * d);
      }
    }
  }

  const ModelConfig model;
  const Sizes size;
  const std::int64_t positions;
  const std::int64_t row;  // positions in a row of the cache
  StageParameters weights;
  std::vector<BlockWeights> blocks;
  ops::RotaryTable rotary;
  std::int64_t length = 0;
  std::vector<std::vector<float>> keys;    // by block: [K, row, d]
  std::vector<std::vector<float>> values;  // by block: [K, d, row]
  std::vector<float> x;                    // [D]: the stream of the token
  std::vector<float> qkv;                  // [(H + 2 K) d]
  std::vector<float> attended;             // [H d]
  std::vector<float> inner;                // [I]
  std::vector<float> logits;               // [V]
  std::vector<Scratch> scratch;            // by thread
  Team team;
};

Generator::Generator(const ModelConfig& model, std::span<const float> weights, std::int64_t positions, int threads)
    : impl_(std::make_unique<Impl>(model, weights, positions, threads)) {}
Generator::~Generator() = default;

std::span<const float> Generator::begin(std::span<const std::int32_t> prompt) { return impl_->begin(prompt); }
std::span<const float> Generator::next(std::int32_t id) { return impl_->next(id); }
std::int64_t Generator::length() const { return impl_->length; }
std::int64_t Generator::positions() const { return impl_->positions; }

}  // namespace starling::trainer
