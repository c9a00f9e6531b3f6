#!/usr/bin/env python3
"""Files of the safetensors package and of transformers for trainer/checkpoint's tests.

    safetensors_golden.py DIR                   writes them
    safetensors_golden.py --check DIR PROGRAM   compares them with what is installed now, and what PROGRAM
                                                (tests/trainer/checkpoint/model_files_program) reads and writes
                                                with what transformers and safetensors read and write

Values are those of tests/trainer/checkpoint/tensor_files.h. Without Python's torch, transformers and safetensors the
check ends with 77, which CTest counts as skipped.
"""
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

try:
    import numpy
    import safetensors
    import safetensors.torch
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
except ImportError as missing:
    print(f"skipped: {missing}; it needs torch, transformers, safetensors and numpy", file=sys.stderr)
    sys.exit(77)

SHAPE = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=32, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)


def known(name, shape):
    index = torch.arange(int(numpy.prod(shape)), dtype=torch.int64)
    salt = sum(name.encode())
    return (((index * 37 + salt) % 101 - 50).to(torch.float32) / 64).reshape(shape)


def models():
    """name -> (config, what save_pretrained gets)."""
    return {
        "untied": (LlamaConfig(**SHAPE), {}),
        "tied": (LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_parameters=LLAMA3), {"max_shard_size": "8KB"}),
    }


def known_model(config):
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(known(name, tuple(parameter.shape)))
    return model


def mixed_tensors():
    half = torch.tensor([1.0, -2.0, 65504.0, 2.0**-14, 2.0**-24, -0.333251953125], dtype=torch.float16)
    return {
        "float32": torch.tensor([[0.0, -0.0, 1.5], [-3.4028234663852886e38, 1e-45, 3.14159274]], dtype=torch.float32),
        "bfloat16": torch.tensor([1.0, -2.5, 3.3895313892515355e38, 9.1835496e-41], dtype=torch.bfloat16),
        "float16": half,
        "int64": torch.tensor([1, -(2**62)], dtype=torch.int64),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros((0, 4)),
        "bool": torch.tensor([True, False, True]),
    }


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def attacks():
    """(name, bytes, good, words of our refusal)."""
    one = json.dumps({"a": tensor()})
    pair = lambda b: json.dumps({"a": tensor(), "b": b})
    four = b"\0" * 4
    return [
        ("good", raw(one, four), True, ""),
        ("padded with spaces", raw(one + "   ", four), True, ""),
        ("no tensors", raw("{}"), True, ""),
        ("metadata alone", raw('{"__metadata__":{"a":"b"}}'), True, ""),
        ("two tensors, listed backwards", raw(json.dumps({"b": tensor(offsets=(4, 8)), "a": tensor()}), four * 2), True, ""),
        ("nothing", b"", False, "got 0 bytes in all"),
        ("half a length", b"\1\0\0", False, "got 3 bytes in all"),
        ("length only", raw("", length=8), False, "only 0 follow"),
        ("header of 2^63 bytes", raw(one, four, length=2**63), False, "a header of at most"),
        ("header of 2^64 - 1 bytes", raw(one, four, length=2**64 - 1), False, "a header of at most"),
        ("header longer than the file", raw(one, four, length=1000), False, "was cut off"),
        ("header shorter than it is", raw(one, four, length=10), False, "no JSON"),
        ("empty header", raw(""), False, "begins with '{'"),
        ("a list", raw("[]"), False, "begins with '{'"),
        ("begins with a space", raw(" " + one, four), False, "begins with '{'"),
        ("no JSON", raw("{a}"), False, "no JSON"),
        ("not UTF-8", raw(b'{"\xff\xfe":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', four), False, "no JSON"),
        ("text after the object", raw(one + "{}", four), False, "no JSON"),
        ("nested without end", raw('{"a":' + "[" * 1000), False, "expected an object"),
        ("hole at the start", raw(json.dumps({"a": tensor(offsets=(4, 8))}), four * 2), False, "no tensor holds"),
        ("hole between", raw(pair(tensor(offsets=(8, 12))), four * 3), False, "no tensor holds"),
        ("overlap", raw(json.dumps({"a": tensor(shape=(2,), offsets=(0, 8)), "b": tensor(shape=(2,), offsets=(4, 12))}),
                        four * 3), False, "overlaps"),
        ("the same bytes twice", raw(pair(tensor()), four), False, "overlaps"),
        ("trailing bytes", raw(one, four + b"x"), False, "belong to none"),
        ("bytes missing", raw(one, b"\0\0\0"), False, "inside of the 3 bytes"),
        ("offsets backwards", raw(json.dumps({"a": tensor(offsets=(4, 0))}), four), False, "inside of the 4 bytes"),
        ("offset beyond the end", raw(json.dumps({"a": tensor(offsets=(0, 2**62))}), four), False, "inside of the 4 bytes"),
        ("offset of 2^64", raw('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}}', four), False,
         "whole numbers"),
        ("negative offset", raw(json.dumps({"a": tensor(offsets=(-4, 0))}), four), False, "whole numbers"),
        ("one offset", raw(json.dumps({"a": tensor(offsets=(0,))}), four), False, "two data_offsets"),
        ("shape and bytes differ", raw(json.dumps({"a": tensor(shape=(2,))}), four), False, "needs 64 bits"),
        ("product of the shape overflows", raw(json.dumps({"a": tensor(shape=(2**32, 2**32), offsets=(0, 0))})), False,
         "too large"),
        ("product overflows to the right size", raw(json.dumps({"a": tensor(shape=(2**62, 4, 1), offsets=(0, 0))})), False,
         "too large"),
        ("negative size", raw(json.dumps({"a": tensor(shape=(-1,))}), four), False, "whole numbers"),
        ("size with a fraction", raw('{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}', four), False, "whole numbers"),
        ("unknown dtype", raw(json.dumps({"a": tensor(dtype="F33")}), four), False, "unknown dtype"),
        ("dtype in lower case", raw(json.dumps({"a": tensor(dtype="f32")}), four), False, "unknown dtype"),
        ("no dtype", raw('{"a":{"shape":[1],"data_offsets":[0,4]}}', four), False, "got only"),
        ("no shape", raw('{"a":{"dtype":"F32","data_offsets":[0,4]}}', four), False, "got only"),
        ("tensor that is a number", raw('{"a":1}'), False, "expected an object"),
        ("metadata of numbers", raw('{"__metadata__":{"a":1}}'), False, "expected a text"),
        ("metadata that is a text", raw('{"__metadata__":"a"}'), False, "expected an object"),
        ("metadata within metadata", raw('{"__metadata__":{"a":{"b":"c"}}}'), False, "expected a text"),
        ("a name twice", raw('{"a":%s,"a":%s}' % ((json.dumps(tensor()),) * 2), four), False, "twice"),
        ("a key of a tensor twice", raw('{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', four), False,
         "twice"),
        ("metadata twice", raw('{"__metadata__":{"a":"b"},"__metadata__":{"a":"c"}}'), False, "twice"),
        ("half a byte", raw(json.dumps({"a": tensor(dtype="F4", shape=(3,), offsets=(0, 1))}), b"\0"), False, "needs 12 bits"),
    ]


def package_reads(content):
    try:
        safetensors.deserialize(content)
        return True
    except Exception:  # whatever it raises, it refuses
        return False


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(mixed_tensors(), folder / "mixed.safetensors",
                                metadata={"format": "pt", "käse": 'ja "gut"'})
    rows = [{"name": name, "bytes": content.hex(), "good": good, "message": message,
             "package_reads": package_reads(content)} for name, content, good, message in attacks()]
    for row in rows:
        if len(row["bytes"]) > 4000:  # the deep one: as deep as a test needs
            raise SystemExit(f"{row['name']}: too long for a golden file")
    (folder / "attacks.json").write_text(json.dumps(rows, indent=1) + "\n")
    for name, (config, options) in models().items():
        known_model(config).save_pretrained(folder / name, **options)
        (folder / name / "generation_config.json").unlink(missing_ok=True)


class Check:
    def __init__(self, program):
        self.program = program
        self.failures = []
        self.passed = 0

    def expect(self, what, condition):
        if condition:
            self.passed += 1
        else:
            self.failures.append(what)
            print(f"FAILED: {what}", file=sys.stderr)

    def run(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True)
        self.expect(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}", done.returncode == 0)
        return done.stdout.strip()


def flat_in_our_order(model, stages):
    """All stages' parameters, one after the other, as stage_parameters() orders them."""
    config = model.config
    layers = config.num_hidden_layers
    counts = [layers // stages] * stages
    for extra in range(1, layers % stages + 1):
        counts[extra] += 1
    block = ["input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
             "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    names, first = [], 0
    for stage, count in enumerate(counts):
        if stage == 0:
            names.append("model.embed_tokens.weight")
        names += [f"model.layers.{i}.{part}.weight" for i in range(first, first + count) for part in block]
        first += count
        if stage == 0:
            names.append("model.norm.weight")
            if not config.tie_word_embeddings:
                names.append("lm_head.weight")
    state = model.state_dict()
    return torch.cat([state[name].to(torch.float32).flatten() for name in names]).numpy()


def check_reading(check, scratch):
    """Models that transformers saved, of any dtype and in any number of files, read by us."""
    cases = dict(models())
    cases["bfloat16"] = (LlamaConfig(**SHAPE), {"max_shard_size": "3KB"})
    cases["float16"] = (LlamaConfig(**SHAPE, tie_word_embeddings=True), {})
    for name, (config, options) in cases.items():
        torch.manual_seed(1)
        model = LlamaForCausalLM(config)
        if name in ("bfloat16", "float16"):
            model = model.to(getattr(torch, name))
        folder = scratch / f"saved_{name}"
        model.save_pretrained(folder, **options)
        for stages in (1, 2, 3):
            check.run("read", folder, stages, scratch / "values")
            got = numpy.fromfile(scratch / "values", dtype=numpy.float32)
            check.expect(f"{name}: {stages} stages read as they were saved",
                         numpy.array_equal(got, flat_in_our_order(model, stages)))


def check_writing(check, golden, scratch):
    """Models that we wrote, loaded by transformers as they are."""
    for name in models():
        for stages in (1, 3):
            for dtype in ("float32", "bfloat16"):
                folder = scratch / f"written_{name}_{stages}_{dtype}"
                check.run("write", folder, golden / name, stages, dtype)
                model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
                what = f"{name} in {stages} {dtype}"
                check.expect(f"{what}: nothing missing or surplus: {info}",
                             not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")))
                check.expect(f"{what}: dtype is {model.dtype}", str(model.dtype) == f"torch.{dtype}")
                for key, value in model.named_parameters():
                    check.expect(f"{what}: {key}", torch.equal(value.to(torch.float32), known(key, tuple(value.shape))))
                check.expect(f"{what}: tie", model.config.tie_word_embeddings == (name == "tied"))
                theta = model.config.rope_parameters["rope_theta"]
                check.expect(f"{what}: rope_theta {theta}", theta == (500000.0 if name == "tied" else 10000.0))
                expected = LlamaForCausalLM(models()[name][0])
                expected.load_state_dict(model.state_dict())
                tokens = torch.arange(32).reshape(1, 32)
                same = torch.equal(expected.to(torch.float32)(tokens).logits, model.to(torch.float32)(tokens).logits)
                check.expect(f"{what}: logits", same)
                for file in folder.glob("*.safetensors"):
                    with safetensors.safe_open(file, "pt") as opened:
                        check.expect(f"{file.name}: format", opened.metadata() == {"format": "pt"})


def check_judgement(check, golden, scratch):
    """The package refuses what the golden file says it refuses, and nothing that it refuses is accepted by us."""
    for row in json.loads((golden / "attacks.json").read_text()):
        content = bytes.fromhex(row["bytes"])
        check.expect(f"{row['name']}: as the package judged", package_reads(content) == row["package_reads"])
    draw = random.Random(7)
    good = (golden / "mixed.safetensors").read_bytes()
    for number in range(150):
        content = bytearray(good)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(content) if draw.random() < 0.3 else len(content) - 90)  # mostly in the header
            kind = draw.randrange(3)
            if kind == 0:
                content[at] = draw.randrange(256)
            elif kind == 1:
                del content[at:at + draw.randint(1, 4)]
            else:
                content[at:at] = bytes([content[at]]) * draw.randint(1, 4)
        (scratch / "changed").write_bytes(content)
        ours = check.run("parse", scratch / "changed")
        if not package_reads(bytes(content)):
            check.expect(f"change {number}: refused by the package, {ours} here", ours != "good")


def main():
    if len(sys.argv) == 2:
        return write(pathlib.Path(sys.argv[1]))
    if len(sys.argv) != 4 or sys.argv[1] != "--check":
        raise SystemExit(__doc__)
    golden = pathlib.Path(sys.argv[2])
    check = Check(sys.argv[3])
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        check_reading(check, scratch)
        check_writing(check, golden, scratch)
        check_judgement(check, golden, scratch)
    versions = f"transformers {transformers.__version__}, safetensors {safetensors.__version__}, torch {torch.__version__}"
    print(f"{check.passed} comparisons with {versions}, {len(check.failures)} failed")
    sys.exit(1 if check.failures else 0)


if __name__ == "__main__":
    main()
