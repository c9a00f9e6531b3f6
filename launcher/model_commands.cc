#include "launcher/model_commands.h"

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <string>
#include <system_error>

#include "launcher/config_fields.h"
#include "launcher/trained_model.h"
#include "trainer/checkpoint/model_files.h"

namespace starling::launcher {
namespace {

namespace fs = std::filesystem;

constexpr std::array tokenizer_files{"tokenizer.json", "tokenizer.model", "tokenizer_config.json"};

// A directory of its own: nothing that is there already is touched.
Status make_directory(const fs::path& path) {
  std::error_code failure;
  const bool made = fs::create_directories(path, failure);
  if (failure) return fail(ErrorCode::io, fmt::format("cannot make '{}': {}", path.string(), failure.message()));
  if (!made && !fs::is_empty(path, failure)) {
    return fail(ErrorCode::failed,
                fmt::format("'{}' is there already and is left as it is; name another with --output DIR", path.string()));
  }
  return {};
}

// Weights first, config.json last: a directory without it is no model.
Status write_model(const TrainedModel& trained, trainer::WeightDtype dtype, const fs::path& output) {
  const trainer::StageLayers all{0, trained.model.num_hidden_layers};
  auto file = trainer::SafetensorsWriter::create(output / trainer::single_file,
                                                 trainer::model_tensors(trained.model, all, 0, dtype), trainer::model_metadata());
  if (!file) return tl::unexpected(file.error());
  if (Status written = file->append(trained.weights); !written) return written;
  if (const auto done = file->finish(); !done) return tl::unexpected(done.error());
  std::error_code failure;
  for (const char* name : tokenizer_files) {
    if (!fs::exists(trained.directory / name, failure)) continue;
    fs::copy_file(trained.directory / name, output / name, failure);
    if (failure) return fail(ErrorCode::io, fmt::format("cannot copy {}: {}", name, failure.message()));
  }
  const std::string config = trainer::hf_config_text(trained.model, trained.special, dtype);
  if (const auto done = trainer::write_whole(output / trainer::config_file, as_bytes(config), trainer::Disk::real()); !done) {
    return tl::unexpected(done.error());
  }
  return trainer::sync_directory(output, trainer::Disk::real());
}

ExitCode run_export(const Options& options) {
  const auto dtype = trainer::weight_dtype(options.text("dtype").value_or("float32"));
  if (!dtype) return complain(options, "export", {ErrorCode::usage, "--dtype: " + dtype.error().message});
  const auto output = options.text("output");
  if (!output) return complain(options, "export", {ErrorCode::usage, "--output (or -o) is missing: the directory to make"});
  const auto trained = open_trained_model(options);
  if (!trained) return complain(options, "export", trained.error());
  if (const Status made = make_directory(*output); !made) return complain(options, "export", made.error());
  if (const Status written = write_model(*trained, *dtype, *output); !written) {
    return complain(options, "export", written.error());
  }
  options.err() << trained->text() << "\n";
  options.out() << *output << "\n";
  return ExitCode::ok;
}

// The section model of a run file, and what else the directory decides.
std::string run_file_part(const TrainedModel& trained, const fs::path& directory) {
  RunConfig config;
  config.model = trained.model;
  config.init_from = directory.string();
  std::string out = "model:\n";
  for (const Field& field : fields()) {
    if (section_of(field.key) == "model") out += fmt::format("  {}: {}\n", leaf_of(field.key), field.write(config));
  }
  std::error_code failure;
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (!fs::exists(directory / name, failure)) continue;
    config.data.tokenizer = (directory / name).string();
    out += fmt::format("tokenizer:\n  path: {}\n", find_field("tokenizer.path")->write(config));
    break;
  }
  return out;
}

ExitCode run_import(const Options& options) {
  const auto trained = open_trained_model(options.argument("DIR"), options.err());
  if (!trained) return complain(options, "import", trained.error());
  const fs::path directory = fs::absolute(trained->directory).lexically_normal();
  options.err() << trained->text() << "\nput these lines into a run file; it then begins with these weights\n";
  options.out() << run_file_part(*trained, directory);
  return ExitCode::ok;
}

constexpr const char* exit_codes =
    "Exit code 1: files are missing, damaged or lack tensors, or weights are not finite; 2: the command line;\n"
    "3: config.json is not a model of ours.";

}  // namespace

Command export_command() {
  return {"export",
          "write a checkpoint as a model directory of transformers",
          std::string("A checkpoint loads in transformers as it is; this writes the weights alone, in one file, without the\n"
                      "optimizer's state, and in bfloat16 if asked to. CKPT may also be a run's directory: its newest\n"
                      "checkpoint that holds is taken.\n\n") +
              exit_codes,
          {checkpoint_argument()},
          {{"output", Flag::Kind::text, "DIR", "the directory to make", 'o'},
           {"dtype", Flag::Kind::text, "float32|bfloat16", "of the weights; default float32"},
           {"skip-stages", Flag::Kind::text, "2,4", "leave these stages of the model out"},
           {"stages", Flag::Kind::integer, "N", "a model directory that is no run's checkpoint counts as N stages; default 1"}},
          run_export};
}

Command import_command() {
  return {"import",
          "check a model directory, and print what a run file needs to go on from it",
          std::string("Reads config.json and every weight of *.safetensors, and prints the section model of a run file, with\n"
                      "model.init_from and, where the directory has one, the tokenizer. Nothing is copied.\n\n") +
              exit_codes,
          {{"DIR", Argument::Presence::required, "a model directory of transformers, a checkpoint or a run's directory"}},
          {},
          run_import};
}

}  // namespace starling::launcher
