"""Small checkpoint folders in Diffusers layout: names and shapes of the true classes, generated weights.

What tools/make_random_model and tools/make_tiny_model share. A weight depends on (case, tensor name)
alone, by the laws of tools/golden/common.py: the same bytes on every run.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "golden"))

import common  # noqa: E402
import torch  # noqa: E402
from diffusers import AutoencoderKLWan, WanTransformer3DModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import UMT5Config, UMT5EncoderModel  # noqa: E402

UNIPC = {"_class_name": "UniPCMultistepScheduler", "num_train_timesteps": 1000,
         "prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2,
         "solver_type": "bh2", "predict_x0": True, "lower_order_final": True,
         "final_sigmas_type": "zero"}
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}


def write_json(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2) + "\n")


def shapes_of(module):
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def write_component(folder, file_name, config, shapes, case, d_kv=0):
    write_json(folder / "config.json", config)
    tensors = {name: torch.from_numpy(common.weight(case, name, shape, d_kv))
               for name, shape in shapes.items()}
    save_file(tensors, folder / file_name, metadata={"format": "pt"})


def write_transformer(folder, case, config, gated):
    with torch.device("meta"):
        shapes = shapes_of(WanTransformer3DModel(**config))
    width = config["num_attention_heads"] * config["attention_head_dim"]
    for layer in range(config["num_layers"] if gated else 0):  # diffusers' class has no gates
        shapes[f"blocks.{layer}.to_gate_compress.weight"] = (width, width)
        shapes[f"blocks.{layer}.to_gate_compress.bias"] = (width,)
    write_component(folder, "diffusion_pytorch_model.safetensors",
                    {"_class_name": "WanTransformer3DModel", **config}, shapes, case)


def write_vae(folder, case, config):
    write_component(folder, "diffusion_pytorch_model.safetensors",
                    {"_class_name": "AutoencoderKLWan", **config},
                    shapes_of(AutoencoderKLWan(**config)), case)


def write_text_encoder(folder, case, config, num_ids):
    config = {"feed_forward_proj": "gated-gelu", "is_gated_act": True, "dense_act_fn": "gelu_new",
              "layer_norm_epsilon": 1e-6, "relative_attention_num_buckets": 32,
              "relative_attention_max_distance": 128, **config, "vocab_size": num_ids}
    write_component(folder, "model.safetensors",
                    {"architectures": ["UMT5EncoderModel"], "model_type": "umt5", **config},
                    shapes_of(UMT5EncoderModel(UMT5Config(**config))), case, config["d_kv"])


def write_index(folder, class_name, scheduler, **more):
    """model_index.json and the scheduler; `more` are further keys of the index."""
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "model_index.json", {
        "_class_name": class_name,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"], **more})
