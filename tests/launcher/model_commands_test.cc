// starling import and export, and the lines between them.
#include "launcher/model_commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <csignal>
#include <functional>
#include <limits>

#include "launcher/config_yaml.h"
#include "launcher/trained_model.h"
#include "tests/launcher/model_test.h"
#include "trainer/checkpoint/model_files.h"

namespace starling::launcher {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class ModelCommands : public ModelTest {
 protected:
  static Outcome run(const std::vector<std::string>& arguments) {
    return run_one_of({export_command(), import_command()}, arguments);
  }
  std::vector<float> weights_in(const std::string& name) const {
    std::ostringstream err;
    const auto opened = open_trained_model(path(name), err);
    EXPECT_TRUE(opened) << (opened ? "" : opened.error().message);
    return opened ? opened->weights : std::vector<float>();
  }
  std::vector<std::string> entries(const std::string& name) const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(path(name))) out.push_back(entry.path().filename().string());
    return out;
  }
};

TEST_F(ModelCommands, WhatACheckpointHoldsComesOutAndInAgain) {
  const std::string checkpoint = write_checkpoint(20, 0.5);
  const Outcome exported = run({"export", path("run"), "-o", path("out")});
  ASSERT_EQ(exported.code, ExitCode::ok) << exported.err;
  EXPECT_EQ(exported.out, path("out") + "\n");
  EXPECT_THAT(entries("out"), ::testing::UnorderedElementsAre("config.json", "model.safetensors"));
  const std::vector<float> weights = weights_in("out");
  EXPECT_EQ(weights.size(), static_cast<std::size_t>(parameter_count(model_, {0, 3}, 0)));
  EXPECT_THAT(weights, ElementsAreArray(weights_in("run")));

  // The lines that import prints make a run file that begins with these weights.
  const Outcome imported = run({"import", path("out")});
  ASSERT_EQ(imported.code, ExitCode::ok) << imported.err;
  write("run.yaml", "version: 1\nrun: {name: again}\ndata: {train: [" + path("text.txt") +
                        "]}\ntraining: {seq_len: 16, micro_batch_size: 2, max_steps: 10}\nlr_scheduler: {warmup_steps: 1}\n"
                        "parallelism: {stages: 3, replicas: 1}\n" +
                        imported.out);
  const ConfigReading reading = load_config(path("run.yaml"), {});
  ASSERT_TRUE(reading.ok()) << describe(reading.problems);
  EXPECT_EQ(reading.config.init_from, path("out"));
  EXPECT_EQ(parameter_count(reading.config.model, {0, 3}, 0), parameter_count(model_, {0, 3}, 0));
}

TEST_F(ModelCommands, ExportRoundsToBfloat16WhenAsked) {
  write_checkpoint(20, 1.0 / 3.0);
  ASSERT_EQ(run({"export", path("run"), "-o", path("half"), "--dtype", "bfloat16"}).code, ExitCode::ok);
  const std::vector<float> exact = weights_in("run");
  const std::vector<float> rounded = weights_in("half");
  ASSERT_EQ(rounded.size(), exact.size());
  std::size_t changed = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    EXPECT_NEAR(rounded[i], exact[i], std::abs(exact[i]) / 256.0F) << i;
    EXPECT_EQ(std::bit_cast<std::uint32_t>(rounded[i]) & 0xffffU, 0U) << i;
    changed += rounded[i] != exact[i] ? 1 : 0;
  }
  EXPECT_GT(changed, exact.size() / 2);
}

TEST_F(ModelCommands, ExportTouchesNothingThatIsThere) {
  write_checkpoint(20);
  fs::create_directories(path("out"));
  write("out/notes.txt", "mine");
  const Outcome refused = run({"export", path("run"), "-o", path("out")});
  EXPECT_EQ(refused.code, ExitCode::failed);
  EXPECT_THAT(refused.err, HasSubstr("is there already"));
  EXPECT_THAT(entries("out"), ElementsAreArray({"notes.txt"}));
  EXPECT_EQ(run({"export", path("run")}).code, ExitCode::usage);
  EXPECT_EQ(run({"export", path("run"), "-o", path("other"), "--dtype", "int8"}).code, ExitCode::usage);
  EXPECT_FALSE(fs::exists(path("other")));
}

TEST_F(ModelCommands, AFullDiskLeavesNoDirectoryThatLooksLikeAModel) {
  write_checkpoint(20);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {  // the limit is the process's
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &small);
    const Outcome full = run({"export", path("run"), "-o", path("out")});
    const bool says = full.err.find("model.safetensors") != std::string::npos;
    ::_exit(full.code == ExitCode::failed && full.out.empty() && says ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_FALSE(fs::exists(path("out/config.json")));
  EXPECT_EQ(run({"import", path("out")}).code, ExitCode::failed);
}

// What may be wrong with a directory that somebody downloaded, each in a directory of its own.
TEST_F(ModelCommands, ImportSaysWhatIsWrongWithADirectory) {
  const std::string config = "bad/config.json";
  const std::string weights = "bad/model.safetensors";
  const auto in_config = [&](const std::string& from, const std::string& to) {
    return [=, this] {
      std::string text = read(config);
      const std::size_t at = text.find(from);
      ASSERT_NE(at, std::string::npos) << from << " in " << text;
      write(config, text.replace(at, from.size(), to));
    };
  };
  const auto in_weights = [&](const std::function<void(std::string&)>& change) {
    return [=, this] {
      std::string bytes = read(weights);
      change(bytes);
      write(weights, bytes);
    };
  };
  const auto header = [&](const std::string& from, const std::string& to) {
    return in_weights([=](std::string& bytes) {
      ASSERT_EQ(from.size(), to.size());
      const std::size_t at = bytes.find(from);
      ASSERT_NE(at, std::string::npos) << from;
      bytes.replace(at, from.size(), to);
    });
  };
  const auto nan = [&](std::string& bytes) { bytes.replace(bytes.size() - 4, 4, "\xff\xff\xff\x7f"); };
  struct Case {
    std::function<void()> damage;
    ExitCode code;
    std::string phrase;
  };
  const std::vector<Case> cases = {
      {[&] { fs::remove(path(config)); }, ExitCode::failed, "config.json"},
      {[&] { fs::remove(path(weights)); }, ExitCode::failed, "safetensors"},
      {[&] { write(config, "{"); }, ExitCode::bad_config, "config.json"},
      {in_config("\"llama\"", "\"qwen3\""), ExitCode::bad_config, "model_type"},
      {in_config("\"silu\"", "\"gelu\""), ExitCode::bad_config, "hidden_act"},
      {in_config("\"intermediate_size\": 24", "\"intermediate_size\": 32"), ExitCode::failed, "shape"},
      {in_config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"), ExitCode::failed, "model.layers.3."},
      {in_weights([](std::string& bytes) { bytes.resize(bytes.size() - 5); }), ExitCode::failed, "model.safetensors"},
      {in_weights([](std::string& bytes) { bytes.resize(4); }), ExitCode::failed, "model.safetensors"},
      {in_weights([](std::string& bytes) { bytes += "tail"; }), ExitCode::failed, "model.safetensors"},
      {in_weights([](std::string& bytes) { bytes.replace(0, 8, "\xff\xff\xff\xff\xff\xff\xff\x7f", 8); }), ExitCode::failed,
       "header"},
      {in_weights(nan), ExitCode::failed, "expected finite values"},
      {header("\"F32\"", "\"F64\""), ExitCode::failed, "F64"},
      {header("model.layers.1.mlp.up_proj", "model.layers.0.mlp.up_proj"), ExitCode::failed, "model.layers.0.mlp.up_proj"},
      {header("model.norm.weight", "model.n0rm.weight"), ExitCode::failed, "model.norm.weight"},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    fs::remove_all(path("bad"));
    write_model("bad");
    ASSERT_EQ(run({"import", path("bad")}).code, ExitCode::ok);
    cases[i].damage();
    const Outcome outcome = run({"import", path("bad")});
    EXPECT_EQ(outcome.code, cases[i].code) << i << ": " << outcome.err;
    EXPECT_EQ(outcome.out, "") << i;
    EXPECT_THAT(outcome.err, HasSubstr(cases[i].phrase)) << i;
  }
}

// A checkpoint's manifest has the hashes of its files: a bit that flipped there is not exported as if nothing were.
TEST_F(ModelCommands, ADamagedCheckpointIsPassedOver) {
  write_checkpoint(20, 0.5);
  const std::string newest = write_checkpoint(30, 0.25);
  fs::path file;
  for (const auto& entry : fs::directory_iterator(newest)) {
    if (entry.path().filename().string().starts_with("model-")) file = entry.path();
  }
  ASSERT_FALSE(file.empty());
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary).seekp(-3, std::ios::end).put('x');
  const Outcome outcome = run({"export", path("run"), "-o", path("out")});
  ASSERT_EQ(outcome.code, ExitCode::ok) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("step-000030"));
  EXPECT_THAT(outcome.err, HasSubstr("step 20"));
  EXPECT_EQ(run({"export", newest, "-o", path("none")}).code, ExitCode::failed);
}

}  // namespace
}  // namespace starling::launcher
