// Weights at the start of a run. Torch-free.
//
// Every number is a function of (run seed, Hugging Face name of the parameter, position in it): it depends neither on how
// the model is cut nor on threads or device, so all replicas draw the same weights and nothing is sent at the start.
//
// Matrices: normal with standard deviation 0.02, as Llama and GPT-2. The two that write into the residual stream (o_proj,
// down_proj) get 0.02 / sqrt(2 L): a model of L blocks adds 2 L such outputs to one stream, and their variances add up, so
// that the stream's size at the end does not grow with depth (GPT-2). L counts all blocks of the model, not the stage's.
// Norms: 1.
#pragma once

#include <cstdint>
#include <vector>

#include "trainer/worker/model_config.h"

namespace starling::trainer {

// The flat array of a stage.
std::vector<float> draw_parameters(const ModelConfig& model, const StageLayers& layers, Stage stage,
                                   std::uint64_t seed);

}  // namespace starling::trainer
