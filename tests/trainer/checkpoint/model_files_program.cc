// The files of this library for a script to look at: what we write is read by Python there, and what Python wrote here.
//
//   model_files_program write DIR CONFIG_DIR STAGES DTYPE    the model of CONFIG_DIR/config.json with known values, as a directory
//   model_files_program read DIR STAGES FILE                 the stages of a model directory as raw fp32, one after the other
//   model_files_program parse FILE                           whether a safetensors file is accepted: "good" or the refusal
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "tests/trainer/checkpoint/tensor_files.h"
#include "trainer/checkpoint/hf_config.h"
#include "trainer/checkpoint/model_files.h"

namespace starling::trainer {
namespace {

Status write_model(const std::filesystem::path& to, const std::filesystem::path& from, std::int64_t stages,
                   WeightDtype dtype) {
  const auto config = read_hf_config(from);
  if (!config) return tl::unexpected(config.error());
  const auto cut = cut_into_stages(config->model, stages, {});
  if (!cut) return tl::unexpected(cut.error());
  std::filesystem::create_directories(to);
  for (std::size_t i = 0; i < cut->size(); ++i) {
    const auto stage = static_cast<Stage>(i);
    auto file = SafetensorsWriter::create(to / model_file_name(stage, stages),
                                          model_tensors(config->model, (*cut)[i], stage, dtype), model_metadata());
    if (!file) return tl::unexpected(file.error());
    if (Status ok = file->append(known_stage(config->model, (*cut)[i], stage)); !ok) return ok;
    if (const auto done = file->finish(); !done) return tl::unexpected(done.error());
  }
  std::ofstream(to / index_file) << index_text(config->model, *cut, dtype);
  std::ofstream(to / config_file) << hf_config_text(config->model, config->special, dtype);
  return {};
}

Status read_model(const std::filesystem::path& from, std::int64_t stages, const std::filesystem::path& to) {
  const auto config = read_hf_config(from);
  if (!config) return tl::unexpected(config.error());
  const auto cut = cut_into_stages(config->model, stages, {});
  if (!cut) return tl::unexpected(cut.error());
  const auto reader = ModelReader::open(from, config->model);
  if (!reader) return tl::unexpected(reader.error());
  std::ofstream out(to, std::ios::binary);
  for (std::size_t i = 0; i < cut->size(); ++i) {
    const auto values = reader->stage((*cut)[i], static_cast<Stage>(i));
    if (!values) return tl::unexpected(values.error());
    out.write(reinterpret_cast<const char*>(values->data()),
              static_cast<std::streamsize>(values->size() * sizeof(float)));
  }
  return {};
}

Status run(std::span<const std::string> arguments) {
  const std::string command = arguments.empty() ? "" : arguments[0];
  if (command == "write" && arguments.size() == 5) {
    const auto dtype = weight_dtype(arguments[4]);
    if (!dtype) return tl::unexpected(dtype.error());
    return write_model(arguments[1], arguments[2], std::stoll(arguments[3]), *dtype);
  }
  if (command == "read" && arguments.size() == 4)
    return read_model(arguments[1], std::stoll(arguments[2]), arguments[3]);
  if (command == "parse" && arguments.size() == 2) {
    const auto file = SafetensorsFile::open(arguments[1]);
    fmt::print("{}\n", file ? "good" : file.error().message);
    return {};
  }
  return fail(ErrorCode::usage, "write DIR CONFIG_DIR STAGES DTYPE | read DIR STAGES FILE | parse FILE");
}

}  // namespace
}  // namespace starling::trainer

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto done = starling::trainer::run(arguments);
  if (!done) fmt::print(stderr, "{}\n", done.error().message);
  return done ? 0 : 1;
}
