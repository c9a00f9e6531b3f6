#include "launcher/config_yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "launcher/yaml_tree.h"

namespace starling::launcher {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Four lines that make a valid run; what a test is about begins in line 5.
constexpr const char* base =
    "version: 1\n"
    "run: {name: t}\n"
    "data: {train: [x.txt]}\n"
    "\n";
constexpr const char* length = "training: {max_steps: 100}\nlr_scheduler: {warmup_steps: 10}\n";

std::vector<std::string> texts(const std::vector<Problem>& problems) {
  std::vector<std::string> out;
  for (const Problem& problem : problems) out.push_back(problem.text());
  return out;
}

std::vector<std::string> problems_of(const std::string& text, const Overrides& overrides = {}) {
  return texts(read_config(text, "run.yaml", overrides).problems);
}

// The problems of the base with `lines` from line 5 on, and a length for the run where they do not give one.
std::vector<std::string> problems_with(std::string lines) {
  if (lines.find("training:") == std::string::npos) lines += "training: {max_steps: 100}\n";
  if (lines.find("lr_scheduler:") == std::string::npos) lines += "lr_scheduler: {warmup_steps: 10}\n";
  return problems_of(base + lines);
}

TEST(ConfigYaml, TheBaseOfTheseTestsIsValid) {
  EXPECT_THAT(problems_with(""), IsEmpty());
  const ConfigReading reading = read_config(std::string(base) + length, "run.yaml", {});
  EXPECT_TRUE(reading.ok());
  EXPECT_EQ(reading.config.run.name, "t");
  EXPECT_EQ(reading.config.run.seed, 1337U);
  EXPECT_EQ(reading.config.training.max_steps, 100);
  EXPECT_EQ(reading.config.model.hidden_size, 768);
  EXPECT_TRUE(reading.config.network.listen_is_default);
}

TEST(ConfigYaml, EachClassOfErrorHasItsMessage) {
  struct Case {
    const char* lines;
    const char* problem;
  };
  const Case cases[] = {
      // names
      {"optimizer:\n  learning_rate: 1\n", "run.yaml:6:3: unknown key 'optimizer.learning_rate' (did you mean 'lr'?)"},
      {"optimizer: {warmup_steps: 1}\n",
       "run.yaml:5:13: unknown key 'optimizer.warmup_steps' (did you mean 'lr_scheduler.warmup_steps'?)"},
      {"optimiser: {lr: 1}\n", "run.yaml:5:1: unknown key 'optimiser' (did you mean 'optimizer'?)"},
      {"hidden_size: 3\n", "run.yaml:5:1: unknown key 'hidden_size' (did you mean 'model.hidden_size'?)"},
      {"model: {num_layers: 3}\n", "run.yaml:5:9: unknown key 'model.num_layers' (did you mean 'num_hidden_layers'?)"},
      {"model: {zebra: 3}\n", "run.yaml:5:9: unknown key 'model.zebra'"},
      {"model: {hidden_size: 768}\nmodel: {}\n",
       "run.yaml:6:1: duplicate key 'model': it stands in line 5 already; keep one of them"},
      {"\"a\\nb\": 1\n", "run.yaml:5:1: unknown key 'a\\nb'"},
      // types
      {"model: {hidden_size: 768.0}\n", "run.yaml:5:22: model.hidden_size: expected an integer, got 768.0"},
      {"model: {hidden_size: null}\n", "run.yaml:5:9: model.hidden_size: expected an integer, got null"},
      {"model:\n  hidden_size:\n", "run.yaml:6:3: model.hidden_size: expected an integer, got null"},
      {"model: {hidden_size: {a: 1}}\n", "run.yaml:5:22: model.hidden_size: expected an integer, got a mapping"},
      {"model: {vocab_size: 010}\n",
       "run.yaml:5:21: model.vocab_size: expected an integer, got 010; a leading zero means octal to some readers: "
       "write "
       "10"},
      {"model: {tie_word_embeddings: no}\n",
       "run.yaml:5:30: model.tie_word_embeddings: expected true or false, got no; write false"},
      {"model: {rope_theta: .inf}\n",
       "run.yaml:5:21: model.rope_theta: expected a number, got .inf; it must be finite"},
      {"model: {rope_scaling: 8}\n",
       "run.yaml:5:23: model.rope_scaling: expected a map such as {rope_type: llama3, factor: 8.0, low_freq_factor: "
       "1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192} or null, got 8"},
      {"model: {rope_scaling: {rope_type: yarn}}\n",
       "run.yaml:5:23: model.rope_scaling: rope_type: expected llama3 or null, got 'yarn'"},
      {"model: {rope_scaling: {rope_type: llama3, factor: 8}}\n",
       "run.yaml:5:23: model.rope_scaling: expected all five keys of a map such as {rope_type: llama3, factor: 8.0, "
       "low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192} or null, got a mapping"},
      {"model: 3\n", "run.yaml:5:8: model: expected keys such as 'model_type', got 3"},
      {"model: [hidden_size]\n", "run.yaml:5:8: model: expected keys such as 'model_type', got a list of 1"},
      {"optimizer: {betas: 0.9}\n",
       "run.yaml:5:20: optimizer.betas: expected a list of two numbers such as [0.9, 0.95], got 0.9"},
      {"optimizer: {betas: [0.9, x]}\n", "run.yaml:5:20: optimizer.betas: item 2: expected a number, got 'x'"},
      {"parallelism: {stage_layers: []}\n",
       "run.yaml:5:29: parallelism.stage_layers: expected auto or the number of blocks of each stage, got a list of 0"},
      {"parallelism: {stage_layers: even}\n",
       "run.yaml:5:29: parallelism.stage_layers: expected a list of integers or auto, got 'even'; write [even]"},
      {"membership: {heartbeat_interval: 1}\n",
       "run.yaml:5:34: membership.heartbeat_interval: expected a duration such as 500ms or 2s, got 1; add a unit: 1s"},
      {"membership: {start_workers: null}\n",
       "run.yaml:5:14: membership.start_workers: expected an integer or auto, got null"},
      {"pipeline: {max_activation_memory: 20}\n",
       "run.yaml:5:35: pipeline.max_activation_memory: expected a size such as 512MiB or 20GiB or auto, got 20; add a "
       "unit: "
       "20MiB"},
      {"outer: {gamma: auto}\n", "run.yaml:5:16: outer.gamma: expected a number or null, got 'auto'"},
      {"outer: {algorithm: nolco}\n",
       "run.yaml:5:20: outer.algorithm: expected noloco, diloco or none, got 'nolco' (did you mean 'noloco'?)"},
      {"outer: {algorithm: null}\n", "run.yaml:5:9: outer.algorithm: expected noloco, diloco or none, got null"},
      {"tokenizer: byte\n", "run.yaml:5:12: tokenizer: expected keys such as 'path', got 'byte'"},
      {"tokenizer: {path: bytes}\n",
       "run.yaml:5:19: tokenizer.path: expected byte or a file NAME.json or NAME.model, got 'bytes'"},
      {"http: {listen: 9464}\n",
       "run.yaml:5:16: http.listen: expected a text or auto, got 9464; if it is one, write \"9464\""},
      // what comes later
      {"model: {init_from: 3}\n", "run.yaml:5:20: model.init_from: expected a text or null, got 3; if it is one, write \"3\""},
      {"training: {max_steps: 100, dtype: float16}\n",
       "run.yaml:5:35: training.dtype: expected auto, float32 or bfloat16, got 'float16' (did you mean 'bfloat16'?)"},
      {"outer: {compression: int8}\n",
       "run.yaml:5:22: outer.compression: int8 comes in a later version; now it is none or bf16"},
      {"outer: {overlap: true}\n",
       "run.yaml:5:9: 'outer.overlap' comes in a later version of starling; remove it or set false"},
      {"pipeline: {skip: planned}\n",
       "run.yaml:5:18: pipeline.skip: planned comes in a later version; now it is on_failure or never"},
      {"pipeline: {step_overlap: 1}\n",
       "run.yaml:5:12: 'pipeline.step_overlap' comes in a later version of starling; remove it or set auto"},
      {"pipeline: {stage_dropout: 0.05}\n",
       "run.yaml:5:12: 'pipeline.stage_dropout' comes in a later version of starling; remove it or set 0.0"},
      {"pipeline: {activation_dtype: int8}\n",
       "run.yaml:5:30: pipeline.activation_dtype: int8 comes in a later version; now it is fp32 or bf16"},
      {"checkpoint: {resume: always}\n",
       "run.yaml:5:22: checkpoint.resume: expected auto or never, got 'always'"},
      {"checkpoint: {keep: 0}\n", "run.yaml:5:20: checkpoint.keep: expected 1 to 1000000, got 0"},
      {"eval: {prompts: [\"Once upon a time\"]}\n",
       "run.yaml:5:8: 'eval.prompts' comes in a later version of starling; remove it or set []"},
      {"network: {max_upload: 20Mbit}\n",
       "run.yaml:5:11: 'network.max_upload' comes in a later version of starling; remove it or set null"},
  };
  for (const Case& c : cases) EXPECT_THAT(problems_with(c.lines), ElementsAre(c.problem)) << c.lines;
}

TEST(ConfigYaml, KeysOfLaterFeaturesMayBeOff) {
  EXPECT_THAT(problems_of(std::string(base) + "model: {init_from: null}\n"
                                              "training: {max_steps: 100, activation_checkpointing: false}\n"
                                              "lr_scheduler: {warmup_steps: 10}\n"
                                              "outer: {overlap: false}\n"
                                              "pipeline: {path_length: null, stage_dropout: 0.0, step_overlap: auto}\n"
                                              "network: {relay: null, max_upload: null}\n"
                                              "eval: {prompts: []}\n"),
              IsEmpty());
  EXPECT_THAT(problems_with("pipeline: {step_overlap: 0}\n"), IsEmpty());
}

TEST(ConfigYaml, ASectionMayBeEmpty) { EXPECT_THAT(problems_with("model:\neval: {}\n"), IsEmpty()); }

TEST(ConfigYaml, AllProblemsComeAtOnceInTheOrderOfTheFile) {
  EXPECT_THAT(
      problems_of("version: 1\n"
                  "run: {name: t, sed: 1}\n"
                  "data: {train: [x.txt]}\n"
                  "training: {max_steps: 10, micro_batch_size: 0, seq_len: ten}\n"
                  "model: {hidden_size: 8, num_attention_heads: 3, num_key_value_heads: 1, zebra: 1}\n"
                  "eval: &e {interval: -1}\n"),
      ElementsAre("run.yaml:2:16: unknown key 'run.sed' (did you mean 'seed'?)",
                  "run.yaml:4:45: training.micro_batch_size: expected 1 to 1048576, got 0",
                  "run.yaml:4:57: training.seq_len: expected an integer, got 'ten'",
                  "run.yaml:5:46: model.num_attention_heads: expected a divisor of hidden_size 8, got 3",
                  "run.yaml:5:73: unknown key 'model.zebra'",
                  "run.yaml:6:7: anchors (&name) are not used in run files; a text that begins with & needs quotes",
                  "run.yaml:6:21: eval.interval: expected 0 to 1099511627776, got -1"));
}

TEST(ConfigYaml, SaysNothingAboutTheDefaultOfAValueThatCouldNotBeRead) {
  // 10 heads do not divide the default of hidden_size; nobody asked for that.
  EXPECT_THAT(problems_with("model: {hidden_size: wide, num_attention_heads: 10, num_key_value_heads: 10}\n"),
              ElementsAre("run.yaml:5:22: model.hidden_size: expected an integer, got 'wide'"));
  EXPECT_THAT(problems_with("training: {max_steps: few}\n"),
              ElementsAre("run.yaml:5:23: training.max_steps: expected an integer or null, got 'few'"));
}

TEST(ConfigYaml, SaysWhichKeysAreMissing) {
  EXPECT_THAT(
      problems_of("model: {}\n"),
      ElementsAre("run.yaml:1:1: missing key 'version': a run file begins with version: 1",
                  "run.yaml:1:1: missing key 'run.name': it names the run's directory, such as run: {name: my-run}",
                  "run.yaml:1:1: missing key 'data.train': it lists the files to train on, such as data: {train: "
                  "[data/*.txt]}",
                  "run.yaml:1:1: training.max_steps (not set): expected a number of steps, got nothing; set "
                  "max_steps or max_tokens"));
}

TEST(ConfigYaml, SaysWhatIsNoRunFile) {
  EXPECT_THAT(problems_of(""),
              ElementsAre("run.yaml:1:1: the file is empty; 'starling init' writes one to begin with"));
  EXPECT_THAT(problems_of("hello\n"), ElementsAre("run.yaml:1:1: expected sections such as 'model:', got 'hello'; "
                                                  "'starling init' writes a file to begin with"));
  EXPECT_THAT(problems_of("- a\n"), ElementsAre("run.yaml:1:1: expected sections such as 'model:', got a list of 1; "
                                                "'starling init' writes a file to begin with"));
  EXPECT_THAT(problems_of("version: 2\nrun: {name: t}\ndata: {train: [x]}\n" + std::string(length)),
              ElementsAre("run.yaml:1:10: version: this program reads version 1 of run files, got 2"));
}

TEST(ConfigYaml, LaterSourcesWin) {
  const std::string file = std::string(base) + "training: {max_steps: 100}\nlr_scheduler: {warmup_steps: 1}\n";
  const Environment environment{{"STARLING_TRAINING_MAX_STEPS", "200"}, {"STARLING_RUN_SEED", "7"}};
  const auto steps = [&](const Overrides& overrides) {
    const ConfigReading reading = read_config(file, "run.yaml", overrides);
    EXPECT_TRUE(reading.ok()) << describe(reading.problems);
    return reading.config.training.max_steps;
  };
  EXPECT_EQ(steps({}), 100);
  EXPECT_EQ(steps({environment, {}}), 200);
  EXPECT_EQ(steps({environment, {"training.max_steps=300"}}), 300);
  EXPECT_EQ(steps({environment, {"training.max_steps=300", "training.max_steps=400"}}), 400);
  EXPECT_EQ(read_config(file, "run.yaml", {environment, {}}).config.run.seed, 7U);
  // An empty variable is one that is not set.
  EXPECT_EQ(steps({{{"STARLING_TRAINING_MAX_STEPS", ""}}, {}}), 100);
}

TEST(ConfigYaml, OverridesAreValuesLikeThoseOfTheFile) {
  const Overrides overrides{{{"STARLING_DATA_VAL", "[v.txt, \"*.txt\"]"}},
                            {"training.max_steps=null", "training.max_tokens=1000000", "lr_scheduler.warmup_steps=0",
                             "outer.algorithm=none", "network.listen=tcp://127.0.0.1:5", "run.name=x=y"}};
  const ConfigReading reading = read_config(std::string(base) + length, "run.yaml", overrides);
  EXPECT_THAT(
      texts(reading.problems),
      ElementsAre("--set run.name=x=y: run.name: names the run's directory: expected 1 to 64 letters, digits, '.', "
                  "'_' and '-', not beginning with '.' or '-', got 'x=y'"));
  EXPECT_EQ(reading.config.data.val, (std::vector<std::string>{"v.txt", "*.txt"}));
  EXPECT_EQ(reading.config.training.max_steps, std::nullopt);
  EXPECT_EQ(reading.config.training.max_tokens, 1'000'000);
  EXPECT_EQ(reading.config.outer.algorithm, outer::Algorithm::none);
  EXPECT_FALSE(reading.config.network.listen_is_default);
}

TEST(ConfigYaml, WrongOverridesNameTheirSource) {
  struct Case {
    const char* set;
    const char* problem;
  };
  const Case sets[] = {
      {"optimizer.learning_rate=1",
       "--set optimizer.learning_rate=1: unknown key 'optimizer.learning_rate' (did you mean 'optimizer.lr'?)"},
      {"max_steps=1", "--set max_steps=1: unknown key 'max_steps' (did you mean 'training.max_steps'?)"},
      {"zebra.tail=1", "--set zebra.tail=1: unknown key 'zebra.tail'"},
      {"training.max_steps", "--set training.max_steps: expected key=value, such as --set training.max_steps=100"},
      {"=1", "--set =1: expected key=value, such as --set training.max_steps=100"},
      {"training=1", "--set training=1: 'training' is a section; set one of its keys, such as training.seq_len"},
      {"model.hidden_size=wide", "--set model.hidden_size=wide: model.hidden_size: expected an integer, got 'wide'"},
      {"model.hidden_size=", "--set model.hidden_size=: model.hidden_size: expected an integer, got null"},
      {"data.train=x.txt", "--set data.train=x.txt: data.train: expected a list of texts, got 'x.txt'; write [x.txt]"},
      {"data.train=[*.txt]",
       "--set data.train=[*.txt]: data.train: aliases (*name) and anchors (&name) are not used in run files; a text "
       "that "
       "begins with * or & needs quotes"},
      {"outer.overlap=true",
       "--set outer.overlap=true: 'outer.overlap' comes in a later version of starling; remove it or set false"},
      {"training.seq_len=4096",
       "--set training.seq_len=4096: training.seq_len: 4096 is more than model.max_position_embeddings 1024; lower the "
       "one "
       "or raise the other"},
      {"lr_scheduler.warmup_steps=100",
       "--set lr_scheduler.warmup_steps=100: lr_scheduler.warmup_steps: the run has 100 steps (training.max_steps), "
       "and the "
       "learning rate would still rise at its end, got 100; set fewer, such as 10"},
  };
  for (const Case& c : sets) {
    EXPECT_THAT(problems_of(std::string(base) + length, {{}, {c.set}}), ElementsAre(c.problem));
  }
  const auto variable = [&](const std::string& name, const std::string& value) {
    return problems_of(std::string(base) + length, {{{name, value}}, {}});
  };
  EXPECT_THAT(variable("STARLING_OUTER_LR", "fast"),
              ElementsAre("STARLING_OUTER_LR=fast: outer.lr: expected a number, got 'fast'"));
  EXPECT_THAT(variable("STARLING_TRAINING__MAX_STEPS", "3"),
              ElementsAre("STARLING_TRAINING__MAX_STEPS=3: unknown variable STARLING_TRAINING__MAX_STEPS (did you mean "
                          "'STARLING_TRAINING_MAX_STEPS'?); unset it"));
  EXPECT_THAT(variable("STARLING_ZEBRA", "3"),
              ElementsAre("STARLING_ZEBRA=3: unknown variable STARLING_ZEBRA; unset it"));
  EXPECT_THAT(variable("STARLING_TEST_SOURCE_DIR", "/x"), IsEmpty());
  EXPECT_THAT(variable("PATH", "/bin"), IsEmpty());
}

TEST(ConfigYaml, FileProblemsComeBeforeThoseOfOverrides) {
  EXPECT_THAT(
      problems_of(std::string(base) + "zebra: 1\n" + length, {{{"STARLING_ZEBRA", "1"}}, {"zebra=1"}}),
      ElementsAre("run.yaml:5:1: unknown key 'zebra'", HasSubstr("STARLING_ZEBRA=1: "), HasSubstr("--set zebra=1: ")));
}

TEST(ConfigYaml, ASpecThatNoNodeWouldAcceptIsAnError) {
  std::string list = "[x.txt";
  for (int i = 0; i < 4000; ++i) list += ",f" + std::to_string(i) + ".txt";
  EXPECT_THAT(
      problems_of("version: 1\nrun: {name: t}\ndata:\n  train: " + list + "]\n" + length),
      ElementsAre(testing::StartsWith("run.yaml:4:10: data.train: with all its values written out the run file has ")));
}

TEST(ConfigYaml, DescribesNoMoreThanAPersonReads) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "zebra" + std::to_string(i) + ": 1\n";
  const std::string description = describe(read_config(text, "run.yaml", {}).problems);
  EXPECT_EQ(std::count(description.begin(), description.end(), '\n'), 41);
  EXPECT_THAT(description, testing::EndsWith("... and 64 more\n"));
}

class ConfigFile : public testing::Test {
 protected:
  ConfigFile() { std::filesystem::create_directories(directory_); }
  ~ConfigFile() override { std::filesystem::remove_all(directory_); }
  std::string path(const std::string& name) const { return (directory_ / name).string(); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }
  static std::vector<std::string> load(const std::string& path) { return texts(load_config(path, {}).problems); }

 private:
  std::filesystem::path directory_ =
      std::filesystem::temp_directory_path() / ("starling_config_test." + std::to_string(::getpid()));
};

TEST_F(ConfigFile, ThatCannotBeReadSaysWhy) {
  EXPECT_THAT(load(path("none.yaml")),
              ElementsAre(path("none.yaml") + ": cannot open '" + path("none.yaml") +
                          "': No such file or directory; 'starling init' writes one to begin with"));
  EXPECT_THAT(load(path(".")), ElementsAre(path(".") + ": expected a file, got a directory or a device"));
  EXPECT_THAT(load("/dev/zero"), ElementsAre("/dev/zero: expected a file, got a directory or a device"));
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(load(path("pipe")), ElementsAre(path("pipe") + ": expected a file, got a directory or a device"));
  EXPECT_THAT(load(write("empty.yaml", "")),
              ElementsAre(path("empty.yaml") + ":1:1: the file is empty; 'starling init' writes one to begin with"));
  EXPECT_THAT(load(write("binary.yaml", std::string("\x7f"
                                                    "ELF\0\0",
                                                    6))),
              ElementsAre(path("binary.yaml") + ":1:1: byte 0x7f cannot stand in a text; a run file is UTF-8 text"));
}

TEST_F(ConfigFile, ThatIsHugeIsNotRead) {
  const std::string file = write("huge.yaml", "version: 1\n");
  std::filesystem::resize_file(file, 100'000'000);  // sparse
  EXPECT_THAT(load(file),
              ElementsAre(file + ": '" + file +
                          "' has 100000000 bytes; at most 1048576 are read; a run file is far smaller: is this "
                          "the right file?"));
}

TEST_F(ConfigFile, OpensTheDataWhenAsked) {
  const std::string data = write("text.txt", std::string(10'000, 'x'));
  const std::string text =
      "version: 1\nrun: {name: t}\ndata:\n  train: [\"" + data + "\"]\ntraining: {max_steps: 100, seq_len: ";
  const std::string rest = "}\nlr_scheduler: {warmup_steps: 10}\nmodel: {max_position_embeddings: 1048576}\n";
  DataSummary summary;
  const ConfigReading good = load_config(write("good.yaml", text + "64" + rest), {}, &summary);
  EXPECT_THAT(texts(good.problems), IsEmpty());
  EXPECT_EQ(summary.training_tokens, 9'500);
  EXPECT_EQ(summary.validation_tokens, 500);

  const std::string long_file = write("long.yaml", text + "20000" + rest);
  EXPECT_THAT(
      texts(load_config(long_file, {}, &summary).problems),
      ElementsAre(long_file + ":4:10: data.train: expected at least 20001 tokens, one sequence of training.seq_len "
                              "and its last target, got 9500; give more text or set a shorter training.seq_len"));
  std::filesystem::remove(data);
  EXPECT_THAT(texts(load_config(path("good.yaml"), {}, &summary).problems),
              ElementsAre(HasSubstr("good.yaml:4:10: data.train: ")));
  EXPECT_THAT(texts(load_config(path("good.yaml"), {}).problems), IsEmpty());
}

}  // namespace
}  // namespace starling::launcher
