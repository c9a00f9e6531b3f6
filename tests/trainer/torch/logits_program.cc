// The logits of a model directory, for a script that compares them with those of transformers.
//
//   logits_program DIR IDS OUT    IDS: token ids as text; OUT: raw fp32 [T, V], the logits after each of them
#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "trainer/checkpoint/hf_config.h"
#include "trainer/checkpoint/model_files.h"
#include "trainer/torch/generator.h"

namespace starling::trainer {
namespace {

Status write_logits(const std::string& from, const std::string& ids_file, const std::string& to) {
  const auto config = read_hf_config(from);
  if (!config) return tl::unexpected(config.error());
  const ModelConfig& model = config->model;
  const auto reader = ModelReader::open(from, model);
  if (!reader) return tl::unexpected(reader.error());
  const auto weights = reader->stage({0, model.num_hidden_layers}, 0);
  if (!weights) return tl::unexpected(weights.error());
  std::vector<std::int32_t> ids;
  std::ifstream in(ids_file);
  for (std::int32_t id = 0; in >> id;) {
    if (id < 0 || id >= model.vocab_size)
      return fail(ErrorCode::bad_input, fmt::format("id {} is in no vocabulary", id));
    ids.push_back(id);
  }
  const auto count = static_cast<std::int64_t>(ids.size());
  if (count < 1 || count > model.max_position_embeddings)
    return fail(ErrorCode::bad_input, fmt::format("expected 1 to {} ids", model.max_position_embeddings));
  Generator generator(model, *weights, count, 1);
  std::ofstream out(to, std::ios::binary);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::span<const float> logits = i == 0 ? generator.begin(std::span(ids).first(1)) : generator.next(ids[i]);
    out.write(reinterpret_cast<const char*>(logits.data()), static_cast<std::streamsize>(logits.size_bytes()));
  }
  return out.flush() ? Status() : fail(ErrorCode::io, to + ": cannot be written");
}

}  // namespace
}  // namespace starling::trainer

int main(int argc, char** argv) {
  if (argc != 4) {
    fmt::print(stderr, "usage: logits_program DIR IDS OUT\n");
    return 2;
  }
  const auto done = starling::trainer::write_logits(argv[1], argv[2], argv[3]);
  if (!done) fmt::print(stderr, "{}\n", done.error().message);
  return done ? 0 : 1;
}
