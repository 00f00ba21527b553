"""A run's parameters as a folder for others: safetensors, and what transformers needs to load it.

The parameters of the reference model carry the names of LlamaForCausalLM, so nothing is renamed.
Those of an own model are written under their own names, and that is said. Whole or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from atoll.fragments import Layout
from atoll.launch.parameters import Parameters
from atoll.launch.whole import whole_folder
from atoll.runfile.settings import RunFile
from atoll.train.model import build_model, to_hf_config, to_hf_state
from atoll.train.settings import ModelSettings

BYTES = 256


def is_reference(parameters: Parameters, run_file: RunFile) -> bool:
    """Whether they are those of the run file's model."""
    layout = parameters.layout
    model = build_model(run_file.train.model, run_file.train.seed)
    other = Layout.from_module(model, layout.num_fragments, layout.strategy)
    return other.fingerprint() == layout.fingerprint()


def write_model(out: Path, parameters: Parameters, run_file: RunFile | None) -> bool:
    """Write the folder. Returns whether transformers can load it."""
    settings = None
    if run_file is not None and is_reference(parameters, run_file):
        settings = run_file.train.model
    with whole_folder(out, "--out") as beside:
        _write(beside, parameters, settings)
        if settings is not None and _is_bytes(settings, run_file):
            for name, content in tokenizer_of_bytes(settings.context).items():
                _write_json(beside / name, content)
    return settings is not None


def _write(folder: Path, parameters: Parameters, settings: ModelSettings | None) -> None:
    tensors = dict(parameters.tensors)
    if settings is not None:
        model = build_model(settings, 0)
        model.load_state_dict(tensors, strict=not settings.tied_embedding)
        tensors = {name: tensor.contiguous() for name, tensor in to_hf_state(model).items()}
        _write_json(folder / "config.json", to_hf_config(settings))
        _write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 0.8})
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    origin = {
        "run": parameters.run,
        "layout": parameters.layout.fingerprint(),
        "versions": list(parameters.versions),
        "left_out_because_frozen": sorted(parameters.layout.frozen_digests),
    }
    _write_json(folder / "atoll.json", origin)
    text = README_REFERENCE if settings is not None else README_OWN
    (folder / "README.md").write_text(text.format(run=parameters.run), encoding="utf-8")


def _is_bytes(settings: ModelSettings, run_file: RunFile | None) -> bool:
    """A token is a byte; a file of tokens has a tokenizer that we do not know."""
    assert run_file is not None, "without a run file there are no settings"
    return settings.vocab_size == BYTES and run_file.train.data.kind != "tokens"


def tokenizer_of_bytes(context: int) -> dict[str, dict[str, Any]]:
    """Files with which transformers reads text as bytes: token n is the byte of value n."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    vocabulary = {letter: value for value, letter in enumerate(letters_of_bytes())}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    splitter = {**byte_level, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": splitter,
        "decoder": splitter,
        "model": model,
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config}


def letters_of_bytes() -> list[str]:
    """The letter that byte-level tokenizers write for each byte: itself where it can be seen."""
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, unseen = [], 0
    for value in range(BYTES):
        if value in seen:
            letters.append(chr(value))
        else:
            letters.append(chr(BYTES + unseen))
            unseen += 1
    return letters


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


README_REFERENCE = """\
# {run}

Trained with Atoll. A decoder in the form of LlamaForCausalLM:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
inputs = tokenizer("import ", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```

Where there is no tokenizer.json, the model was trained on a file of tokens: use the tokenizer that
made them. Where there is one, a token is a byte (token n is the byte of value n), and byte 0 stands
between two documents. `atoll.json` says which version of every fragment this is.
"""
README_OWN = """\
# {run}

Trained with Atoll, by a loop and a model of their own: `model.safetensors` holds its tensors under
the model's own names. Tied tensors are there once, frozen ones are not there:

```python
from safetensors.torch import load_file

model.load_state_dict(load_file("model.safetensors"), strict=False)
```

`atoll.json` says which version of every fragment this is, and what was left out because frozen.
"""
