// What a worker asks of its device.
//
// The loop thread submits jobs and never computes; the compute thread runs them in the order of submission, answers each
// exactly once and decides nothing. trainer/torch/learner is the real one, trainer/worker/simulated_compute an exact
// small model for virtual time; both pass tests/trainer/worker/compute_conformance.h.
//
// State of a stage: theta (weights now), phi (slow weights), outer momentum, Adam's m and v: flat fp32 arrays of
// parameter_count() values each, in the order of stage_parameters(). Every OptimizerStep makes a new version of theta; a
// kept graph holds the version it ran forward with until its backward pass or DropKept, so both passes of a microbatch
// use the same weights.
//
// Legend: B sequences of a microbatch, T tokens of a sequence, D hidden size, N parameters of the stage.
// Activations and gradients between stages: [B, T, D] in `pipeline.activation_dtype`, gradients of the SUM of the token
// losses. Losses are sums in nats.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/ids.h"

namespace starling::trainer {

using JobId = std::uint64_t;

enum class DeviceType { cpu, cuda };
enum class DeviceWish { automatic, cpu, cuda };  // automatic: CUDA where there is any

enum class Pass { train, eval };  // eval: no graph is kept and nothing is accumulated
enum class Encoding { fp32, bf16 };

// Evaluation microbatches share the originator's numbering with this bit set in their index.
inline constexpr std::uint32_t eval_index_bit = 1U << 31;

// Originator: embed sample (slot, step, index) of the training data, or (eval) window index & ~eval_index_bit of the
// validation data, and run the blocks of stage 0. Result: Activation [B, T, D].
struct Begin {
  MicrobatchId microbatch;
  Slot slot = no_slot;
  Pass pass = Pass::train;
};
// Middle stage: run the blocks. Result: Activation [B, T, D].
struct Forward {
  MicrobatchId microbatch;
  Buffer input;
  Pass pass = Pass::train;
  std::vector<std::uint32_t> borders;  // rows at which a document begins inside of a sequence, as Begin told them
};
// Originator: final norm, head, loss of what came home; `input` null: no middle stage was visited, so what Begin made
// goes straight in, unrounded. Result: Loss. Train: head and final norm accumulate their gradient now.
struct Loss {
  MicrobatchId microbatch;
  Buffer input;
  Pass pass = Pass::train;
};
// Backward through this stage's blocks; accumulates. `gradient` null (originator only): the gradient that Loss left here
// because no middle stage was visited. Result: Gradient ([B, T, D]; null at the originator). Frees the graph.
struct Backward {
  MicrobatchId microbatch;
  Buffer gradient;
};
// Frees the graph and the kept targets of a microbatch, if any. Result: Done.
struct DropKept {
  MicrobatchId microbatch;
};
// One inner step: blocks and embedding divide their accumulated gradient by body_tokens, head and final norm by
// head_tokens (0: no gradient there), all are clipped together to max_grad_norm, then AdamW at `learning_rate`; the
// accumulated gradient is zeroed. A gradient that is not finite: no step, gradient zeroed, Stepped.applied = false.
struct OptimizerStep {
  Step step = 0;
  double learning_rate = 0.0;
  std::int64_t body_tokens = 0;
  std::int64_t head_tokens = 0;
};
// Encodes (phi, delta = theta - phi) for an exchange: phi [N] then delta [N]; keeps the delta as this round's own.
// Result: State.
struct Snapshot {
  Encoding encoding = Encoding::bf16;
};
// The outer step of methods: delta_i <- alpha delta_i + beta mean(Delta) - gamma (phi_i - mean(phi)); phi_i += delta_i;
// theta = phi. Own values exact, those of others as encoded. `others` empty: solo (own Delta, no gamma term); the newest
// Snapshot's delta counts, or theta - phi now when there was none this round. An own delta that is not finite, or whose norm
// is more than 100 times that of phi (of values of 0.01, where phi is smaller), counts as zero, there and in a Snapshot.
// Others that are not finite or whose phi or delta norm is absurd are left out and counted. Result: OuterStepped.
struct OuterStep {
  std::vector<Buffer> others;
  Encoding encoding = Encoding::bf16;
  double alpha = 0.5;
  double beta = 0.7;
  double gamma = 0.7;
};
// The way back from weights that have diverged: theta = phi, Adam's state zero, accumulated gradient and snapshot dropped;
// graphs stay, with the weights that they ran with. Result: Loaded; phi itself not finite: Loaded.error, and nothing has
// changed.
struct ReloadSlow {};
enum class StatePart { phi, adam_m, adam_v, momentum, theta };
// One flat array of this stage, encoded. Result: State.
struct Encode {
  StatePart part = StatePart::phi;
  Encoding encoding = Encoding::fp32;
};
struct EncodedPart {
  Buffer bytes;
  Encoding encoding = Encoding::fp32;
};
// Becomes `stage` (its own or another) with these weights: phi given, else drawn from the run's seed; theta as given,
// else phi; Adam's state and outer momentum as given, else zero; `adam_steps` Adam's bias-correction counter; accumulated gradient, graphs
// and snapshot dropped. Result: Loaded; not finite or of a wrong size: Loaded.error, and nothing has changed.
struct Load {
  Stage stage = 0;
  std::optional<EncodedPart> phi;
  std::optional<EncodedPart> adam_m;
  std::optional<EncodedPart> adam_v;
  std::optional<EncodedPart> momentum;
  std::optional<EncodedPart> theta;
  std::int64_t adam_steps = 0;
};
// CheckFree's last resort for a middle stage: block j = weighted mean of block j of both neighbours; `right` null (last
// stage): copy of `left`. Then as Load without Adam state. Result: Loaded.
struct LoadFromNeighbours {
  Stage stage = 0;
  EncodedPart left;
  std::optional<EncodedPart> right;
  double left_weight = 0.5;
};

using Job = std::variant<Begin, Forward, Loss, Backward, DropKept, OptimizerStep, Snapshot, OuterStep, Encode, Load,
                         LoadFromNeighbours, ReloadSlow>;

struct ActivationMade {
  MicrobatchId microbatch;
  Buffer output;  // null: the input was not finite, or the tokens could not be read, or it diverged; nothing is kept
  bool diverged = false;  // of a finite input this stage made what is not finite
  // Begin with training.document_attention: for every Forward of this microbatch. At most net::max_borders; attention
  // sees across those beyond.
  std::vector<std::uint32_t> borders;
};
struct LossMade {
  MicrobatchId microbatch;
  double loss_sum = 0.0;     // nats, over `tokens` targets
  std::int64_t tokens = 0;
  Buffer gradient;           // null: no middle stage was visited, or eval
  bool finite = true;        // false: what came home was not finite, or it diverged; nothing was accumulated and the graph is freed
  // Of a finite input this stage made what is not finite; where `finite` is true all the same: the gradient alone, and it
  // was accumulated.
  bool diverged = false;
};
struct GradientMade {
  MicrobatchId microbatch;
  Buffer output;             // null at the originator
  std::int64_t tokens = 0;
  bool finite = true;        // false: nothing was accumulated; the graph is freed
  bool diverged = false;     // of a finite gradient this stage made what is not finite; it was accumulated
};
struct Done {};
struct Stepped {
  Step step = 0;
  bool applied = false;        // false: there was no gradient, or one that is not finite
  double gradient_norm = 0.0;  // before clipping
  double matrix_flops = 0.0;   // of the device, per second, measured once by a product in the run's precision; 0: unknown
  std::int64_t memory_bytes = 0;  // allocated on an accelerator; 0: the device's memory is the process's
};
struct StateMade {
  Buffer bytes;
};
struct OuterStepped {
  std::int64_t averaged_with = 0;    // others that counted
  std::int64_t rejected_non_finite = 0;
  std::int64_t rejected_norm = 0;
  double divergence = 0.0;           // ||phi_i - phi_j|| / ||phi_i|| of the first other that counted, before averaging
};
struct Loaded {
  Stage stage = 0;
  std::optional<std::string> error;
};

using JobResult =
    std::variant<ActivationMade, LossMade, GradientMade, Done, Stepped, StateMade, OuterStepped, Loaded>;

struct Completion {
  JobId job = 0;
  JobResult result;
  double compute_seconds = 0.0;  // since it began or the job before was answered, whichever was later
};

// Sizes that the loop needs before any job has run. Pure functions of the config.
struct ComputeSizes {
  std::int64_t activation_bytes = 0;         // one activation or gradient on the wire
  std::vector<std::int64_t> parameters;      // per stage: N
  std::vector<std::int64_t> kept_bytes;      // per stage: what one microbatch keeps until its backward pass, estimated
  std::vector<double> body_flops;            // per stage: of a token, see train_flops_per_token
  double head_flops = 0.0;                   // of a token
};

class Compute {
 public:
  virtual ~Compute() = default;
  // Loop thread. Never blocks. Completions come back as events of the worker, in the order of submission.
  virtual void submit(JobId id, Job job) = 0;
  virtual const ComputeSizes& sizes() const = 0;
};

}  // namespace starling::trainer
