// Encodes text with byte-level BPE, in one thread, and does the same with Python's `tokenizers` right after (its fastest
// call, one thread), when a Python that has it is there (STARLING_TEST_PYTHON, else python3). Prints MB for each second of
// processor time of both, and the ratio.
//
//   Encode/KIND       text as people write it: words that come again
//   EncodeHard/KIND   the hard texts of the golden files: hardly any word twice
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "gossip/base/bytes.h"
#include "gossip/base/random.h"
#include "trainer/data/tokenizer.h"
#include "trainer/data/utf8.h"

namespace {

using namespace starling;
using namespace starling::trainer;

std::string golden(const std::string& name) {
  return (std::filesystem::path(std::getenv("STARLING_TEST_SOURCE_DIR")) / "tests/golden/tokenizers" / name).string();
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<std::string> hard_texts() {
  std::vector<std::string> out;
  const auto cases = nlohmann::json::parse(read(golden("cases.json")));
  for (const auto& text : cases["texts"]) {
    const auto bytes = from_hex(text.get<std::string>());
    out.emplace_back();
    append_valid_utf8(as_text(*bytes), out.back());
  }
  return out;
}

// Words drawn by Zipf's law out of 20,000 made-up ones, with commas, stops, numbers and lines; one in 50 is new.
std::string written_text(std::size_t bytes) {
  Stream stream(7);
  const auto word = [&stream] {
    std::string out;
    for (std::uint64_t letters = 1 + stream.below(9); letters > 0; --letters) {
      out.push_back("etaoinshrdlucmfwypvbgkjqxz"[stream.below(1 + stream.below(26))]);
    }
    return out;
  };
  std::vector<std::string> words(20'000);
  for (std::string& one : words) one = word();
  std::string out;
  while (out.size() < bytes) {
    const std::uint64_t kind = stream.below(50);
    if (kind == 0)
      out += word();
    else if (kind == 1)
      out += std::to_string(stream.below(100'000));
    else
      out += words[stream.below(1 + stream.below(1 + stream.below(words.size())))];
    out += kind < 4 ? ", " : kind < 6 ? ".\n" : " ";
  }
  return out;
}

std::string hard_text(std::size_t bytes) {
  const auto texts = hard_texts();
  Stream stream(8);
  std::string out;
  while (out.size() < bytes) out += texts[stream.below(texts.size())] + std::to_string(stream.below(1'000'000));
  return out;
}

// MB/s of Python's `tokenizers` for this file of text; 0 where there is none.
double python_rate(const std::string& tokenizer, const std::string& text_file) {
  const char* python = std::getenv("STARLING_TEST_PYTHON");
  const std::string command =
      "TOKENIZERS_PARALLELISM=false " + std::string(python != nullptr ? python : "python3") +
      " -c \"import sys, time; from tokenizers import Tokenizer; t = Tokenizer.from_file(sys.argv[1]);"
      " t.encode_special_tokens = True; text = open(sys.argv[2], encoding='utf-8', newline='').read();"
      " parts = [text[i:i + 65536] for i in range(0, len(text), 65536)]; begin = time.process_time();"
      " t.encode_batch_fast(parts, add_special_tokens=False);"
      " print(len(text.encode()) / 1e6 / (time.process_time() - begin))\" '" +
      tokenizer + "' '" + text_file + "' 2>/dev/null";
  FILE* const pipe = ::popen(command.c_str(), "r");
  double rate = 0.0;
  if (pipe == nullptr) return 0.0;
  if (std::fscanf(pipe, "%lf", &rate) != 1) rate = 0.0;
  ::pclose(pipe);
  return rate;
}

void encode(benchmark::State& state, const std::string& kind, const std::string& text) {
  const std::string path = golden(kind + ".json");
  const auto tokenizer = *Tokenizer::open(path);
  const auto encoder = tokenizer->encoder();
  TokenIds ids;
  double seconds = 0.0;
  for (auto _ : state) {
    ids.clear();
    const std::clock_t begin = std::clock();
    if (!encoder->append(text, SpecialNames::text, ids)) state.SkipWithError("cannot encode");
    seconds += static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  }
  const double rate = static_cast<double>(text.size()) / 1e6 * static_cast<double>(state.iterations()) / seconds;
  state.counters["MB/cpu_s"] = rate;
  state.counters["bytes/token"] = static_cast<double>(text.size()) / static_cast<double>(ids.size());
  const auto file = std::filesystem::temp_directory_path() / ("starling_tokenizer_bench." + std::to_string(::getpid()));
  std::ofstream(file, std::ios::binary) << text;
  if (const double python = python_rate(path, file.string()); python > 0.0) {
    state.counters["python_MB/cpu_s"] = python;
    state.counters["ratio"] = rate / python;
  }
  std::filesystem::remove(file);
}

void Encode(benchmark::State& state, const std::string& kind) { encode(state, kind, written_text(2'000'000)); }
void EncodeHard(benchmark::State& state, const std::string& kind) { encode(state, kind, hard_text(1'000'000)); }

BENCHMARK_CAPTURE(Encode, gpt2, std::string("gpt2"))->Iterations(3)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Encode, llama3, std::string("llama3"))->Iterations(3)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Encode, smollm, std::string("smollm"))->Iterations(3)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(EncodeHard, llama3, std::string("llama3"))->Iterations(3)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
