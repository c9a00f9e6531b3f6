// Models for the commands that take one.
#pragma once

#include <string>
#include <vector>

#include "tests/launcher/command_test.h"
#include "tests/trainer/checkpoint/tensor_files.h"
#include "trainer/checkpoint/checkpoint_directory.h"

namespace starling::launcher {

// A model of three stages whose weights everybody can compute, as a directory of transformers and as a run's checkpoint.
class ModelTest : public CommandTest {
 protected:
  ModelTest() {
    model_ = trainer::tiny_model();
    model_.vocab_size = 256;
    std::string text;
    for (int i = 0; i < 4000; ++i) text += static_cast<char>('a' + i * i % 17);
    write("text.txt", text);
  }

  static Outcome run_one_of(const std::vector<Command>& commands, const std::vector<std::string>& arguments) {
    std::ostringstream out;
    std::ostringstream err;
    const ExitCode code = run_command_line(commands, arguments, {}, out, err);
    return {code, out.str(), err.str()};
  }

  std::string write_model(const std::string& name, const trainer::SpecialIds& special = {}) const {
    return write_model(name, model_, trainer::known_stage(model_, {0, 3}, 0), special);
  }
  // One file; `weights` as a flat array.
  std::string write_model(const std::string& name, const trainer::ModelConfig& model, std::vector<float> weights,
                          const trainer::SpecialIds& special = {}) const {
    std::filesystem::create_directories(path(name));
    write(name + "/config.json", trainer::hf_config_text(model, special, trainer::WeightDtype::float32));
    const auto tensors = trainer::model_tensors(model, {0, model.num_hidden_layers}, 0, trainer::WeightDtype::float32);
    auto writer =
        trainer::SafetensorsWriter::create(path(name) + "/model.safetensors", tensors, trainer::model_metadata());
    EXPECT_TRUE(writer && writer->append(weights) && writer->finish());
    return path(name);
  }

  std::string run_text() const {
    return "version: 1\n"
           "run: {name: tiny}\n"
           "model: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 3, num_attention_heads: 4,\n"
           "        num_key_value_heads: 2, vocab_size: 256, max_position_embeddings: 64}\n"
           "data: {train: [" +
           path("text.txt") +
           "]}\n"
           "training: {seq_len: 16, micro_batch_size: 2, max_steps: 10}\n"
           "lr_scheduler: {warmup_steps: 1}\n"
           "eval: {batches: 3}\n"
           "parallelism: {stages: 3, replicas: 1}\n";
  }
  std::string write_checkpoint(Step step, double scale = 1.0) const {
    const auto cut = *trainer::cut_into_stages(model_, 3, {});
    auto writer = trainer::CheckpointWriter::begin(
        path("run/checkpoints"),
        {.model = model_, .cut = cut, .run_file = run_text(), .run_id = "ab", .config_hash = "cd", .step = step});
    EXPECT_TRUE(writer);
    for (Stage stage = 0; stage < 3; ++stage) {
      EXPECT_TRUE(writer->begin_stage({.stage = stage}));
      auto values = trainer::known_stage(model_, cut[static_cast<std::size_t>(stage)], stage);
      for (float& value : values) value *= static_cast<float>(scale);
      EXPECT_TRUE(writer->weights(values));
      EXPECT_TRUE(writer->end_stage());
    }
    return writer->commit().value();
  }

  trainer::ModelConfig model_;
};

}  // namespace starling::launcher
