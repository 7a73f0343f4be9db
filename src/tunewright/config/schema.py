"""The run file as one typed, frozen tree: what was asked, before anything is resolved.

The string under each field is its help text, its reference page and its JSON schema description. `auto`
values are resolved in run/plan.py and stored in plan.json; nothing ever changes a RunConfig.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, core_schema

STDIN = "-"
"""The path that stands for standard input."""


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, field docstrings as descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        strict=False,
        allow_inf_nan=False,
        # Defaults get their field's type too: `epochs` is a float whether or not somebody wrote it.
        validate_default=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` is not the number 1, whatever Python says."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and annotation is not bool and bool not in get_args(annotation):
            raise ValueError("true and false are not allowed here")
        return value


@dataclass(frozen=True, slots=True)
class ShortForm:
    """Accepts `section: text` where a mapping with `key` is meant; with `many`, in list items too."""

    key: str
    many: bool = False

    def expand(self, value: Any) -> Any:
        """The long form of `value`; what is no short form passes through."""
        if isinstance(value, str):
            value = {self.key: value}
        if not self.many:
            return value
        if isinstance(value, dict):
            return (value,)
        if isinstance(value, (list, tuple)):
            items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
            return tuple({self.key: item} if isinstance(item, str) else item for item in items)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.expand, handler(source))


class QuantizationConfig(Section):
    kind: Literal["none", "4bit", "nf4"] = "none"
    """How frozen base weights are stored: `none` keeps them in `model.dtype`, `nf4` packs the linear layers
    into 4 bits with quantised scales (QLoRA, `torch` on CUDA and CPU), `4bit` takes the engine's own form:
    nf4 with `torch`, affine groups of 64 with `mlx`. The two do not compute the same numbers."""


class ModelConfig(Section):
    name: Annotated[str, Field(min_length=1)]
    """Base model: a Hugging Face id, a local folder, or `builtin:tiny`."""
    revision: str | None = None
    """Branch, tag or commit of a hub model. Pin a commit for reproducible runs."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Storage type of frozen weights. `auto` follows `train.precision` for adapters and is fp32 for full
    training."""
    quantization: Annotated[QuantizationConfig, ShortForm("kind")] = QuantizationConfig()
    """Storage of the frozen base weights below 16 bits."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """Attention back end. `auto` takes the fastest that the start-up check proves right on this device; the
    others are proved too."""
    kernels: Literal["auto", "plain", "fast", "compiled"] = "auto"
    """How decoder layers are computed with `torch`: `plain` as transformers does, `fast` in a few wide
    operations, `compiled` the same with torch.compile for what lies between. The last two are for LoRA on
    Llama, Qwen2, Qwen3, Mistral and Gemma; they are checked on the device before use, and it stays plain
    where they do not fit. `auto` is compiled on CUDA, fast for bf16 on a CPU, else plain."""


class MethodConfig(Section):
    type: Literal["supervised"] = "supervised"
    """Training objective. `supervised` learns the trained tokens of each row."""


class AdapterConfig(Section):
    kind: Literal["lora", "none"] = "lora"
    """`lora` trains low-rank adapters on a frozen base; `none` trains every weight."""
    rank: Annotated[int, Field(ge=1)] = 16
    """LoRA rank r. 4 to 32 suits most tasks; memory and capacity grow with it."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """LoRA scale: the update is multiplied by alpha / rank (alpha / sqrt(rank) with `rslora`)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while training. Above 0 a run depends on its micro-batch split. Dropout
    of the base model's own config is off."""
    targets: Literal["all-linear"] | str | tuple[str, ...] = "all-linear"
    """Modules that get an adapter: `all-linear` (all but the output head), a list of names, or one regex
    on the full module name."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases train as well."""
    modules_to_save: tuple[str, ...] = ()
    """Names of further modules trained in full and stored with the adapter, such as `lm_head`."""
    rslora: bool = False
    """Rank-stabilised scale alpha / sqrt(rank); worth it at ranks of 64 and more."""
    start_from: str | None = None
    """Folder of a PEFT adapter whose values are the start instead of fresh ones."""


class SourceConfig(Section):
    path: Annotated[str, Field(min_length=1)]
    """A file (.json, .jsonl, .parquet, .csv) or a folder of such files, relative to the run file. A named
    pipe, or `-` for standard input, gives JSONL rows that are read once: it needs `train.max_steps`."""
    format: Literal["auto", "alpaca", "sharegpt", "messages", "prompt_completion", "text"] = "auto"
    """Row format. `auto` decides from the keys of the first rows and says what it found."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often each row is seen in an epoch: 2 twice, 0.5 every second row, a different half each epoch."""
    columns: dict[str, str] = {}
    """Column mapping from the format's field name to the name in the file: {instruction: question}."""


class DataConfig(Section):
    train: Annotated[tuple[SourceConfig, ...], Field(min_length=1), ShortForm("path", many=True)]
    """Training data: one file or folder, or a list of them with format and weight."""
    eval: str | Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Held-out data: a file, or the share of training rows held out (0 turns evaluation off). A file is read
    with the format and columns of the training data where those are the same for all of it."""
    seq_len: Annotated[int, Field(ge=8)] = 2048
    """Longest row in tokens, and the length to which rows are packed."""
    overlong: Literal["error", "truncate", "split", "drop"] = "error"
    """What happens to a row above `seq_len`: refuse with line numbers, cut, split, or leave out."""
    bad_rows: Literal["error", "skip"] = "error"
    """Rows that cannot be trained on, for whatever reason: `error` ends the run with file and line, `skip`
    leaves them out, counts them and names the first. A file that cannot be read to its end is always an
    error."""
    max_bad_rows: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Most rows that `bad_rows: skip` leaves out: a count, or below 1 a share of all rows (of those that came
    so far through a pipe). With more of them the run ends."""
    packing: bool = True
    """Lay the examples of one optimizer step end to end instead of padding. Never changes the loss: a model
    that is not proved to keep them apart gets one example a row, and the plan says so."""
    train_on: Literal["assistant", "last_assistant", "all"] = "assistant"
    """Which turns are trained: all assistant turns, the last one, or every token."""
    thinking: Literal["as_at_inference", "last_only", "drop"] = "as_at_inference"
    """Reasoning of earlier turns where the template drops it: render every turn as inference would see it,
    train the last turn only, or leave reasoning out."""
    loading: Literal["auto", "memory", "indexed"] = "auto"
    """Where rows are held: in `memory`, tokenised and checked before the first step, or `indexed`: read and
    tokenised when their turn comes, for files larger than memory. `auto` takes `indexed` above 256 MiB of
    files."""
    window: Annotated[int, Field(ge=1)] = 10_000
    """Rows shuffled among each other where the data comes through a pipe and cannot be read out of order."""
    control_tokens: Literal["text", "parse"] = "text"
    """Control tokens that message content spells, such as `<|im_end|>`: `text` tokenises them as plain text,
    so that no row can forge a turn; `parse` as the tokens. Rows of raw text (`text`, and `prompt_completion`
    of two texts) hold control tokens of their own and are always parsed."""
    chat_template: str | None = None
    """File with a Jinja chat template that replaces the model's own."""


class TrainConfig(Section):
    epochs: Annotated[float, Field(gt=0)] = 3
    """Passes over the training data. `max_steps` ends earlier when set."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps after which training ends, whatever `epochs` says. Data that can be read only once
    needs it."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Examples (conversations) per optimizer step, over all devices."""
    tokens_per_batch: Annotated[int, Field(ge=8)] | None = None
    """Tokens per optimizer step instead: examples are taken in order as long as they fit, one at least.
    `batch_size` is not used then."""
    micro_batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Rows of `seq_len` tokens that go through the model at once. Lower it to save memory; the loss stays the
    same. `auto` takes up to 8,192 tokens, and less where that does not fit into the device's memory."""
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Peak learning rate. `auto` is 2e-4 for adapters and 2e-5 for full training."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up; cosine and linear end at 0."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Share of all steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay; never on norms and biases."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Clip the global gradient L2 norm to this. Lower it if gradient_norm spikes; 0 turns clipping off."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw"] = "adamw"
    """Update rule. `adamw_8bit` keeps the moments in 8 bits, `paged_adamw` keeps them where CUDA moves them
    to the host when memory is short. Both are for `torch` on CUDA; elsewhere they are `adamw`."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW decay of the first and second moment."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW term added to the denominator."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute type. `auto` is bf16 on a GPU that has it, fp16 with loss scaling on one that has not. On a CPU
    it is bf16 for adapters where `torch` finds instructions for it (avx512_bf16, amx_bf16), else fp32."""
    activation_checkpointing: Literal["auto"] | bool | Annotated[int, Field(ge=0)] = "auto"
    """Recompute activations in the backward pass: much less memory, about a third slower. A number is that of
    decoder layers that do so. `auto` takes as few as fit into the device's memory, none where all fits."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of data order, adapter start values and dropout."""
    deterministic: bool = False
    """Only use operations that give the same bits each time, even where they are slower."""


class ParallelConfig(Section):
    strategy: Literal["auto", "single"] = "auto"
    """How the run spreads over devices. `auto` takes what is there."""


class CheckpointConfig(Section):
    every_steps: Annotated[int, Field(ge=1)] = 100
    """Save a resumable checkpoint after this many steps, and at the end."""
    keep: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints kept."""
    keep_best: bool = True
    """Also keep the checkpoint that is best by `best_metric`."""
    best_metric: Literal["valid_loss", "perplexity", "valid_token_accuracy"] = "valid_loss"
    """Held-out metric that says which checkpoint is best."""
    best_mode: Literal["auto", "min", "max"] = "auto"
    """Whether the lowest or the highest value is best. `auto` knows it for each metric."""
    export_every: Literal["epoch", "never"] | Annotated[int, Field(ge=1)] = "epoch"
    """Write a servable adapter after each epoch, every N steps, or only at the end (`never`)."""
    keep_exports: Annotated[int, Field(ge=1)] = 3
    """Newest exports kept beside the final one."""
    merge: bool = False
    """The final export holds merged weights instead of an adapter."""
    merge_base: Literal["auto", "original", "dequantised"] = "auto"
    """Which weights the adapter of a quantised base is merged into: the `original` ones, read again from
    disk, or the `dequantised` ones it was trained on. `auto` is original with `torch`, dequantised with
    `mlx`, which has no other."""


class GuardConfig(Section):
    spike: Literal["warn", "skip", "off"] = "warn"
    """What happens when loss or gradient norm jumps far above the steps before: `warn` says so, `skip` also
    leaves the step out, before it reaches a weight. A step that is not finite is always left out."""
    rollbacks: Annotated[int, Field(ge=0)] = 1
    """How often a run may go back to its last checkpoint after three bad steps in a row. The rows since then
    are passed over. After that it ends with an error."""
    first_step_seconds: Annotated[float, Field(gt=0)] = 1800
    """A first step that takes longer counts as hung: the stacks are written down and the run ends with exit
    code 6."""
    step_seconds: Annotated[float, Field(gt=0)] = 300
    """The same for every later step, evaluation batch and save."""


class EvaluateConfig(Section):
    every_steps: Annotated[int, Field(ge=1)] = 100
    """Evaluate on the held-out data after this many steps, before the first and at the end."""
    metrics: tuple[Literal["perplexity", "token_accuracy"], ...] = ("perplexity", "token_accuracy")
    """Metrics reported beside the held-out loss."""


class LoggingConfig(Section):
    every_steps: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Steps between two reports on the terminal and to outside trackers. A report has the means of its steps
    (loss, gradient norm, accuracy, seconds) and the last learning rate and epoch. `auto` prints a line every
    ten seconds and sends each step. events.jsonl and the API have every step in any case."""


class RunNameConfig(Section):
    name: str | None = None
    """Name of the run and of its folder below runs/. Default: model, data and time."""


class RunConfig(Section):
    """One fine-tuning run. `model` and `data.train` are enough; everything else has a good default."""

    version: Literal[1] = 1
    """Version of this file format."""
    engine: Literal["auto", "torch", "mlx"] = "auto"
    """Which engine trains: `torch` on CUDA, MPS and CPU, `mlx` on Apple silicon (Metal) and any CPU. `auto`
    is `mlx` on Apple silicon where it is installed, else `torch`."""
    device: str = "auto"
    """Device: auto, cpu, mps, cuda or cuda:N with `torch`; auto, cpu, metal or cuda with `mlx`."""
    model: Annotated[ModelConfig, ShortForm("name")]
    """The base model."""
    method: Annotated[MethodConfig, ShortForm("type")] = MethodConfig()
    """The training objective."""
    adapter: Annotated[AdapterConfig, ShortForm("kind")] = AdapterConfig()
    """What is trained on top of the base."""
    data: DataConfig
    """Training and held-out data."""
    train: TrainConfig = TrainConfig()
    """Optimisation."""
    parallel: Annotated[ParallelConfig, ShortForm("strategy")] = ParallelConfig()
    """Devices and how they share the work."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Resumable checkpoints and servable exports."""
    guard: GuardConfig = GuardConfig()
    """What happens to bad steps and to a run that hangs."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Held-out evaluation."""
    track: Literal["auto"] | tuple[Literal["console", "wandb"], ...] = ("console",)
    """Where metrics go besides events.jsonl, which is always written. `wandb` is Weights & Biases and needs
    its library; `auto` is console, and wandb where it is installed."""
    logging: LoggingConfig = LoggingConfig()
    """How often a run reports."""
    run: Annotated[RunNameConfig, ShortForm("name")] = RunNameConfig()
    """Name of the run."""
