"""What the golden makers share: counter-based tensors, identical to tests/support/golden.cpp, and the writer.

A tensor depends on (case, name, shape, mean, std) alone:
  key      first 8 bytes of sha256("case/name"), little endian
  words    Philox4x32-10, counter (element, 0, 0, 0)
  z        (sum of the four words' upper 24 bits - 2^25) * sqrt(3) / 2^24, in fp64: mean 0, variance 1, |z| < 3.47
  value    fp32(mean + std * z)
No logarithm and no cosine, so that Python and C++ agree in every bit.
"""

import hashlib
import importlib.metadata
import json
import math
import pathlib
import platform

import numpy

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
MAX_BYTES = 200_000  # of one file

_M0, _M1 = numpy.uint64(0xD2511F53), numpy.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = numpy.uint64(0xFFFFFFFF)
_UNIT = math.sqrt(3.0) / 2.0**24


def philox(counter, key):
    """Philox4x32-10 of four uint64 arrays that hold 32-bit words: four arrays of words."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        p0, p1 = _M0 * c[0], _M1 * c[2]
        c = [(p1 >> numpy.uint64(32)) ^ c[1] ^ numpy.uint64(k0), p1 & _LOW,
             (p0 >> numpy.uint64(32)) ^ c[3] ^ numpy.uint64(k1), p0 & _LOW]
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return c


def unit(case, name, count):
    """`count` numbers of mean 0 and variance 1, as fp64."""
    digest = hashlib.sha256(f"{case}/{name}".encode()).digest()
    key = [int.from_bytes(digest[i:i + 4], "little") for i in (0, 4)]
    counter = [numpy.arange(count, dtype=numpy.uint64)] + [numpy.zeros(count, numpy.uint64) for _ in range(3)]
    total = sum(w >> numpy.uint64(8) for w in philox(counter, key)).astype(numpy.int64) - (1 << 25)
    return total.astype(numpy.float64) * _UNIT


def tensor(case, name, shape, mean=0.0, std=1.0):
    """fp32 array."""
    count = math.prod(shape)
    return (mean + std * unit(case, name, count)).astype(numpy.float32).reshape(shape)


def weight_law(name, shape, d_kv=0):
    """(mean, std) of a parameter, such that activations stay O(1) and no term hides at 0 or 1."""
    if name.endswith(".gamma") or (name.endswith(".weight") and len(shape) == 1):
        return 1.0, 0.3
    if name.endswith(".bias"):
        return 0.0, 0.3 if len(shape) == 1 and not name.startswith(("encoder.", "decoder.", "quant_conv", "post_quant")) else 0.2
    if name.endswith("scale_shift_table"):
        return 0.0, 0.3
    if name in ("shared.weight", "encoder.embed_tokens.weight") or name.endswith("relative_attention_bias.weight"):
        return 0.0, 1.0
    std = 1.0 / math.sqrt(math.prod(shape[1:]))
    if d_kv and name.endswith("SelfAttention.q.weight"):
        std *= 1.0 / math.sqrt(d_kv)
    return 0.0, std


def weight(case, name, shape, d_kv=0):
    mean, std = weight_law(name, shape, d_kv)
    return tensor(case, name, shape, mean, std)


def fill(module, case, d_kv=0, rename=lambda name: name):
    """Puts generated weights into a torch module; returns their digest."""
    import torch
    arrays = {}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            arrays[rename(name)] = weight(case, rename(name), tuple(parameter.shape), d_kv)
            parameter.copy_(torch.from_numpy(arrays[rename(name)]))
    return weights_digest(arrays)


def weights_digest(arrays):
    """sha256 over names and fp32 bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(numpy.ascontiguousarray(arrays[name], numpy.float32).tobytes())
    return digest.hexdigest()


def sample(array, limit=4096):
    """A large output as every k-th element of its flat form, k odd, and its norms: what the file stores."""
    flat = numpy.asarray(array, numpy.float32).reshape(-1)
    stride = max(1, -(-flat.size // limit)) | 1
    wide = flat.astype(numpy.float64)
    return {"sample": flat[::stride].copy(), "stride": stride, "count": int(flat.size),
            "l2": float(numpy.sqrt((wide**2).sum())), "sum": float(wide.sum()),
            "min": float(flat.min()), "max": float(flat.max())}


def versions(*packages):
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def write(area, case, tensors, *, what, producer, packages, tolerance, tolerance_reason, config=None, weights=None,
          sampled=None, extra=None, root=None):
    """tests/golden/<area>/<case>.safetensors and its manifest <case>.json.

    tensors   name -> array, stored whole
    sampled   name -> array, stored by sample(): the strided values under the name, the norms in the manifest
    weights   digest of the generated weights
    """
    from safetensors.numpy import save_file
    folder = (pathlib.Path(root) if root else GOLDEN) / area
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: numpy.ascontiguousarray(array) for name, array in tensors.items()}
    sampled_info = {}
    for name, array in (sampled or {}).items():
        summary = sample(array)
        stored[name] = summary.pop("sample")
        sampled_info[name] = summary
    file = folder / f"{case}.safetensors"
    save_file(stored, file)
    assert file.stat().st_size <= MAX_BYTES, f"{file} has {file.stat().st_size} bytes, at most {MAX_BYTES}"
    manifest = {"what": what, "producer": producer, "command": f".deps/venv/bin/python {producer}", "seed": f"{case}/<name>",
                "versions": versions(*packages), "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest()},
                "tolerance": tolerance, "tolerance_reason": tolerance_reason}
    if config is not None:
        manifest["config"] = config
    if weights is not None:
        manifest["weights_sha256"] = weights
    if sampled_info:
        manifest["sampled"] = sampled_info
    if extra is not None:
        manifest.update(extra)
    (folder / f"{case}.json").write_text(json.dumps(manifest, indent=1) + "\n")
