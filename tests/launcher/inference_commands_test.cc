#include "launcher/inference_commands.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gossip/base/printable.h"
#include "launcher/config_yaml.h"
#include "tests/launcher/model_test.h"
#include "trainer/torch/evaluator.h"

namespace starling::launcher {
namespace {

using nlohmann::json;
using trainer::known_stage;

class InferenceCommands : public ModelTest {
 protected:
  static Outcome run_inference(const std::vector<std::string>& arguments) {
    return run_one_of({generate_command(), eval_command()}, arguments);
  }
  static json parsed(std::vector<std::string> arguments) {
    arguments.emplace_back("--json");
    const Outcome outcome = run_inference(arguments);
    EXPECT_EQ(outcome.code, ExitCode::ok) << outcome.err;
    return outcome.code == ExitCode::ok ? json::parse(outcome.out) : json::object();
  }
  static void expect_refused(ExitCode code, const std::string& phrase, const std::vector<std::string>& arguments) {
    const Outcome outcome = run_inference(arguments);
    EXPECT_EQ(outcome.code, code) << phrase;
    EXPECT_EQ(outcome.out, "") << phrase;
    EXPECT_NE(outcome.err.find(phrase), std::string::npos) << "expected '" << phrase << "', got: " << outcome.err;
  }
};


std::vector<std::string> generate(const std::string& checkpoint, std::vector<std::string> more = {}) {
  std::vector<std::string> out{"generate", checkpoint, "-p", "a starling", "--max-tokens", "20", "--threads", "1"};
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

TEST_F(InferenceCommands, TheSeedDecidesTheText) {
  const std::string model = write_model("model");
  const json first = parsed(generate(model, {"--seed", "4"}));
  EXPECT_EQ(parsed(generate(model, {"--seed", "4"}))["tokens"], first["tokens"]);
  EXPECT_NE(parsed(generate(model, {"--seed", "5"}))["tokens"], first["tokens"]);
  EXPECT_EQ(first["tokens"].size(), 20U);
  EXPECT_EQ(first["stopped"], "max_tokens");
  const json greedy = parsed(generate(model, {"--temperature", "0", "--seed", "4"}));
  EXPECT_EQ(parsed(generate(model, {"--top-k", "1", "--seed", "5"}))["tokens"], greedy["tokens"]);
  EXPECT_EQ(parsed(generate(model, {"--top-p", "1e-9", "--seed", "6"}))["tokens"], greedy["tokens"]);
}

TEST_F(InferenceCommands, PrintsPromptAndTextInWholeCharacters) {
  const std::string model = write_model("model");
  // A hot model of bytes writes nearly nothing but broken characters.
  const std::vector<std::string> arguments = generate(model, {"--temperature", "5"});
  const Outcome outcome = run_inference(arguments);
  ASSERT_EQ(outcome.code, ExitCode::ok) << outcome.err;
  EXPECT_EQ(outcome.out, "a starling" + parsed(arguments)["text"].get<std::string>() + "\n");
  for (std::string_view rest = outcome.out; !rest.empty();) {
    const std::size_t bytes = utf8_length(rest);
    ASSERT_GT(bytes, 0U);
    rest.remove_prefix(bytes);
  }
  EXPECT_NE(outcome.err.find("20 tokens, ended by max_tokens"), std::string::npos) << outcome.err;
}

TEST_F(InferenceCommands, EndsWhereTheModelHasNoMorePositions) {
  const json made = parsed({"generate", write_model("model"), "-p", "a starling", "--max-tokens", "1000"});
  EXPECT_EQ(made["stopped"], "max_position_embeddings");
  EXPECT_EQ(made["tokens"].size() + made["prompt_tokens"].size(), 64U);
}

TEST_F(InferenceCommands, EndsWithAnEndOfTextToken) {
  const json whole = parsed(generate(write_model("model"), {"--seed", "4"}));
  const auto end = whole["tokens"][5].get<std::int64_t>();
  const json made = parsed(generate(write_model("ending", {.eos = {300, end}}), {"--seed", "4"}));
  EXPECT_EQ(made["stopped"], "end_of_text");
  const auto first = std::find(whole["tokens"].begin(), whole["tokens"].end(), end) - whole["tokens"].begin();
  EXPECT_EQ(made["tokens"], json(whole["tokens"].begin(), whole["tokens"].begin() + first + 1));
}

TEST_F(InferenceCommands, ASkippedStageIsAModelWithFewerBlocks) {
  const std::string whole = write_model("whole");
  trainer::ModelConfig two = model_;
  two.num_hidden_layers = 2;
  // Without stage 1 of 3: blocks 0 and 2.
  std::vector<float> weights;
  const std::vector<float> all = known_stage(model_, {0, 3}, 0);
  const auto embedding = static_cast<std::ptrdiff_t>(model_.vocab_size * model_.hidden_size);
  const auto block = static_cast<std::ptrdiff_t>(trainer::parameter_count(model_, {1, 2}, 1));
  weights.insert(weights.end(), all.begin(), all.begin() + embedding + block);
  weights.insert(weights.end(), all.begin() + embedding + 2 * block, all.end());
  const std::string fewer = write_model("fewer", two, weights);
  const json skipped = parsed(generate(whole, {"--stages", "3", "--skip-stages", "1"}));
  EXPECT_EQ(skipped["tokens"], parsed(generate(fewer))["tokens"]);
  EXPECT_NE(skipped["tokens"], parsed(generate(whole))["tokens"]);
  EXPECT_EQ(skipped["skipped_stages"], json({1}));
  EXPECT_EQ(skipped["stages"], 3);
}

TEST_F(InferenceCommands, ACheckpointKnowsItsStages) {
  const std::string checkpoint = write_checkpoint(30);
  const std::string model = write_model("model");
  const json made = parsed(generate(checkpoint, {"--skip-stages", "2,1"}));
  EXPECT_EQ(made["tokens"], parsed(generate(model, {"--stages", "3", "--skip-stages", "1,2"}))["tokens"]);
  EXPECT_EQ(made["step"], 30);
  EXPECT_EQ(made["stages"], 3);
  expect_refused(ExitCode::usage, "this checkpoint knows its stages", generate(checkpoint, {"--stages", "3"}));
}

TEST_F(InferenceCommands, ARunsDirectoryMeansItsNewestCheckpoint) {
  write_checkpoint(10);
  const std::string newest = write_checkpoint(20, 0.5);
  EXPECT_EQ(parsed(generate(path("run")))["tokens"], parsed(generate(newest))["tokens"]);
  EXPECT_EQ(parsed(generate(path("run/checkpoints")))["step"], 20);
  std::string damaged = read("run/checkpoints/step-000020/model-00002-of-00003.safetensors");
  damaged.back() = static_cast<char>(damaged.back() ^ 1);
  write("run/checkpoints/step-000020/model-00002-of-00003.safetensors", damaged);
  EXPECT_EQ(parsed(generate(path("run")))["step"], 10);
  EXPECT_NE(run_inference(generate(path("run"))).err.find("passed over: step-000020"), std::string::npos);
  expect_refused(ExitCode::failed, "its hash is not the one in manifest.json", generate(newest));
  std::filesystem::remove(newest + "/config.json");
  expect_refused(ExitCode::failed, "config.json", generate(newest));
}

TEST_F(InferenceCommands, LossIsTheMeanOfTheHeldOutWindows) {
  const std::string model = write_model("model");
  const std::string text = read("text.txt");
  // 200 tokens are held out: 12 windows of 16.
  const json found = parsed({"eval", model, "--data", path("text.txt"), "--seq-len", "16"});
  EXPECT_EQ(found["windows"], 12);
  EXPECT_EQ(found["tokens"], 192);
  const std::vector<float> weights = known_stage(model_, {0, 3}, 0);
  const trainer::Evaluator evaluator(model_, weights, 16, 1);
  double sum = 0.0;
  for (std::size_t window = 0; window < 12; ++window) {
    std::vector<std::int32_t> ids;
    for (const char c : text.substr(3800 + window * 16, 17)) ids.push_back(static_cast<unsigned char>(c));
    sum += evaluator.loss(ids);
  }
  EXPECT_NEAR(found["loss"].get<double>(), sum / 192.0, 1e-6);
  EXPECT_NEAR(found["perplexity"].get<double>(), std::exp(sum / 192.0), 1e-3);

  const json all = parsed({"eval", model, "--val", path("text.txt"), "--seq-len", "16", "--windows", "20"});
  EXPECT_EQ(all["windows"], 20);
  EXPECT_EQ(all["windows_there"], 249);
  const json half =
      parsed({"eval", model, "--data", path("text.txt"), "--seq-len", "16", "--stages", "3", "--skip-stages", "2"});
  EXPECT_NE(half["loss"], found["loss"]);
}

TEST_F(InferenceCommands, ACheckpointIsMeasuredOnItsRunsWindows) {
  const json found = parsed({"eval", write_checkpoint(10)});
  EXPECT_EQ(found["windows"], 6);  // eval.batches x training.micro_batch_size
  EXPECT_EQ(found["seq_len"], 16);
  const json same =
      parsed({"eval", write_model("model"), "--data", path("text.txt"), "--seq-len", "16", "--windows", "6"});
  EXPECT_EQ(found["loss"], same["loss"]);
}

TEST_F(InferenceCommands, RefusesWrongCommandLines) {
  const std::string model = write_model("model");
  expect_refused(ExitCode::usage, "--prompt (or -p) is missing", {"generate", model});
  expect_refused(ExitCode::usage, "CKPT is missing", {"generate", "-p", "a"});
  expect_refused(ExitCode::usage, "--prompt: expected a text", {"generate", model, "-p", ""});
  expect_refused(ExitCode::usage, "--temperature: expected", generate(model, {"--temperature", "-1"}));
  expect_refused(ExitCode::usage, "--top-k: expected", generate(model, {"--top-k", "-3"}));
  expect_refused(ExitCode::usage, "--top-p: expected", generate(model, {"--top-p", "0"}));
  expect_refused(ExitCode::usage, "--seed: expected", generate(model, {"--seed", "-1"}));
  expect_refused(ExitCode::usage, "--threads: expected 1 to", {"eval", model, "--threads", "0"});
  expect_refused(ExitCode::usage, "--max-tokens: expected", {"generate", model, "-p", "a", "--max-tokens", "0"});
  expect_refused(ExitCode::usage, "its 64 tokens leave no room for another: the model has 64 positions",
                 {"generate", model, "-p", std::string(64, 'a')});
  expect_refused(ExitCode::usage, "--skip-stages: expected numbers of stages",
                 generate(model, {"--skip-stages", "1,"}));
  expect_refused(ExitCode::usage, "--skip-stages: stage 0 cannot be skipped",
                 generate(model, {"--stages", "2", "--skip-stages", "0"}));
  expect_refused(ExitCode::usage, "--skip-stages: there is no stage 3: expected 1 to 2",
                 generate(model, {"--stages", "3", "--skip-stages", "3"}));
  expect_refused(ExitCode::usage, "--stages: expected 1 to 3", generate(model, {"--stages", "4"}));
  expect_refused(ExitCode::usage, "--data or --val is missing", {"eval", model});
  expect_refused(ExitCode::usage, "do not go together", {"eval", model, "--data", "a", "--val", "b"});
  expect_refused(ExitCode::usage, "--seq-len: expected 1 to 64",
                 {"eval", model, "--data", path("text.txt"), "--seq-len", "65"});
  expect_refused(ExitCode::usage, "--windows: expected", {"eval", model, "--data", path("text.txt"), "--windows", "0"});
}

TEST_F(InferenceCommands, RefusesConfigurationsThatAreNotOurs) {
  const std::string model = write_model("model");
  json config = json::parse(read("model/config.json"));
  config["hidden_act"] = "gelu";
  config["attention_bias"] = true;
  write("model/config.json", config.dump());
  expect_refused(ExitCode::bad_config, "hidden_act: only \"silu\" is supported, got \"gelu\"", generate(model));
  expect_refused(ExitCode::bad_config, "attention_bias", {"eval", model, "--data", path("text.txt")});
  config = {{"model_type", "gpt2"}};
  write("model/config.json", config.dump());
  expect_refused(ExitCode::bad_config, "model_type: only llama is supported, got \"gpt2\"", generate(model));
  write("model/config.json", "{");
  expect_refused(ExitCode::bad_config, "config.json", generate(model));
}

TEST_F(InferenceCommands, RefusesATokenizerThatDoesNotFit) {
  trainer::ModelConfig model = model_;
  model.vocab_size = 300;
  const std::string more = write_model("more", model, known_stage(model, {0, 3}, 0));
  expect_refused(ExitCode::bad_config, "name one with --tokenizer", generate(more));
  EXPECT_EQ(parsed(generate(more, {"--tokenizer", "byte"}))["tokens"].size(), 20U);
  expect_refused(ExitCode::bad_config, "no-such-tokenizer", generate(more, {"--tokenizer", "no-such-tokenizer"}));
  model.vocab_size = 255;
  const std::string fewer = write_model("fewer", model, known_stage(model, {0, 3}, 0));
  expect_refused(ExitCode::bad_config, "name one with --tokenizer", generate(fewer));
  expect_refused(ExitCode::bad_config, "has 256 tokens, but the model's vocab_size is 255",
                 generate(fewer, {"--tokenizer", "byte"}));
}

TEST_F(InferenceCommands, RefusesFilesThatLackOrDamageTheModel) {
  expect_refused(ExitCode::failed, "does not exist", generate(path("nowhere")));
  write("empty/none", "");
  std::filesystem::create_directories(path("empty"));
  expect_refused(ExitCode::failed, "expected config.json and *.safetensors, or checkpoints of a run",
                 generate(path("empty")));
  const std::string model = write_model("model");
  trainer::ModelConfig deeper = model_;
  deeper.num_hidden_layers = 4;
  write("model/config.json", trainer::hf_config_text(deeper, {}, trainer::WeightDtype::float32));
  expect_refused(ExitCode::failed, "model.layers.3.", generate(model));
  trainer::ModelConfig wider = model_;
  wider.intermediate_size = 25;
  write("model/config.json", trainer::hf_config_text(wider, {}, trainer::WeightDtype::float32));
  expect_refused(ExitCode::failed, "config.json asks for shape [16, 25], got [16, 24]", generate(model));
  std::filesystem::remove(model + "/model.safetensors");
  expect_refused(ExitCode::failed, "expected model.safetensors or model.safetensors.index.json there", generate(model));

  write_model("model");
  std::string bytes = read("model/model.safetensors");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(bytes.data() + bytes.size() - 8, &nan, sizeof nan);
  write("model/model.safetensors", bytes);
  expect_refused(ExitCode::failed, "lm_head.weight", generate(model));
  expect_refused(ExitCode::failed, "lm_head.weight", {"eval", model, "--data", path("text.txt")});
  // Finite weights, and numbers that are not.
  std::vector<float> huge = known_stage(model_, {0, 3}, 0);
  std::fill_n(huge.end() - 256 * 16, 256 * 16, 3e38F);  // the head
  write_model("huge", model_, huge);
  expect_refused(ExitCode::failed, "weights have diverged", {"generate", path("huge"), "-p", "a", "--json"});
  expect_refused(ExitCode::failed, "weights have diverged",
                 {"eval", path("huge"), "--data", path("text.txt"), "--json"});
}

TEST_F(InferenceCommands, TextNeedsATokenizerAndIdsDoNot) {
  trainer::ModelConfig model = model_;
  model.vocab_size = 300;
  const std::string directory = write_model("more", model, known_stage(model, {0, 3}, 0));
  expect_refused(ExitCode::bad_config, "name one with --tokenizer", {"eval", directory, "--val", path("text.txt")});
  std::string ids;
  for (const char c : read("text.txt")) ids += {c, '\0'};
  write("ids.bin", ids);
  write("ids.raw", ids);
  const json text = parsed({"eval", directory, "--val", path("text.txt"), "--tokenizer", "byte"});
  EXPECT_EQ(parsed({"eval", directory, "--val", path("ids.bin")})["loss"], text["loss"]);
  EXPECT_EQ(parsed({"eval", directory, "--val", path("ids.raw"), "--format", "uint16"})["loss"], text["loss"]);
  ids[0] = '\x2c';  // 300
  ids[1] = '\x01';
  write("ids.bin", ids);
  expect_refused(ExitCode::failed, "has id 300", {"eval", directory, "--val", path("ids.bin")});
}

TEST_F(InferenceCommands, RefusesDataThatIsNone) {
  const std::string model = write_model("model");
  expect_refused(ExitCode::failed, "cannot be opened", {"eval", model, "--data", path("none.txt")});
  write("short.txt", "too short");
  expect_refused(ExitCode::failed, "training.seq_len --seq-len", {"eval", model, "--data", path("short.txt")});
  expect_refused(ExitCode::bad_config, "data.format: expected auto",
                 {"eval", model, "--data", path("text.txt"), "--format", "pdf"});
}

}  // namespace
}  // namespace starling::launcher
