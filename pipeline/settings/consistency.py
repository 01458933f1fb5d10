"""What no section of params.yaml can check by itself: that the sections fit together."""

from collections.abc import Collection

from pipeline.artefacts import INPUT, OTHER, REFERENCE_SCORES, REFERENCES
from pipeline.settings.concepts import LabelledConcepts, Removal, Steering, Transplant, Union
from pipeline.settings.methods import AdapterMethod, DecoderMethod, changed
from pipeline.settings.sections import (
    BackboneSettings,
    Settings,
    TrainedAutoencoder,
    Training,
    Unseen,
)
from sacd.errors import SacdError, unknown_name

# As in sacd.images.shapes, which is not imported: all stages would depend on the generator.
UNSEEN = ("shape", "fill", "background")
# Where names stand, what they name, the names, and those there are.
Use = tuple[str, str, list[str], Collection[str]]


def require_consistent(settings: Settings) -> None:
    """Raise `SacdError` for the first thing that does not fit together."""
    _require_names(settings)
    _require_comparison(settings)
    _require_images(settings)
    _require_networks(settings)
    _require_recipes(settings)
    _require_sweeps(settings)
    _require_disturbances(settings)
    _require_concepts(settings)


def _require_names(settings: Settings) -> None:
    """Every name points to something defined, and none stands twice."""
    for where, kind, names, known in _uses_in_compare(settings) + _uses_elsewhere(settings):
        for name in names:
            if name not in known:
                raise unknown_name(kind, name, known, where)
            if names.count(name) > 1:
                raise SacdError(f"{where}: '{name}' stands twice.")
    taken = {*settings.methods} & {*REFERENCES, REFERENCE_SCORES, INPUT, OTHER}
    if taken:
        raise SacdError(f"methods.{min(taken)}: the name stands for what methods are shown beside.")


def _uses_in_compare(settings: Settings) -> list[Use]:
    compare = settings.compare
    uses: list[Use] = [
        ("compare.backbones", "backbone", compare.backbones, settings.backbones),
        ("compare.judge", "backbone", [compare.judge], settings.backbones),
        ("compare.networks", "backbone", compare.networks, settings.backbones),
        ("compare.segmenters", "segmenter", compare.segmenters, settings.segmenters),
        ("compare.adapters", "adapter", compare.adapters, settings.adapters),
        ("compare.decoders", "decoder", compare.decoders, settings.decoders),
        ("compare.methods", "method", compare.methods, settings.methods),
        ("compare.sweeps", "sweep", compare.sweeps, settings.sweeps),
        ("compare.disturbances", "disturbance", compare.disturbances, settings.disturbances),
        ("compare.layers", "comparison of layers", compare.layers, settings.layers),
        ("compare.concepts", "set of concepts", compare.concepts, settings.concepts),
        ("compare.probes", "probe", compare.probes, settings.probes),
        ("compare.edits", "edit", compare.edits, settings.edits),
        ("compare.disentangled", "edit", compare.disentangled, compare.edits),
    ]
    if compare.methods:
        uses.append(("compare.main_method", "method", [compare.main_method], compare.methods))
        uses.append(("compare.ranking", "method", compare.ranking, compare.methods))
    return uses


def _uses_elsewhere(settings: Settings) -> list[Use]:
    """Of sections that are compared; the others may name what is not run."""
    compare, uses = settings.compare, list[Use]()
    for name in sorted({*compare.methods} & {*settings.methods}):
        method, where = settings.methods[name], f"methods.{name}"
        if isinstance(method, AdapterMethod):
            uses.append((f"{where}.adapter", "adapter", [method.adapter], compare.adapters))
        if isinstance(method, DecoderMethod):
            uses.append((f"{where}.decoder", "decoder", [method.decoder], compare.decoders))
    for name in sorted({*compare.disturbances} & {*settings.disturbances}):
        tested = settings.disturbances[name].methods
        uses.append((f"disturbances.{name}.methods", "method", tested, compare.methods))
    for name in sorted({*compare.edits} & {*settings.edits}):
        edit, where = settings.edits[name], f"edits.{name}"
        uses.append((f"{where}.methods", "method", edit.methods, compare.methods))
        if isinstance(edit, Steering):
            uses.append((f"{where}.concepts", "set of concepts", [edit.concepts], compare.concepts))
    for name in sorted({*compare.layers} & {*settings.layers}):
        uses.append((f"layers.{name}", "backbone", settings.layers[name], compare.backbones))
    return uses


def _require_comparison(settings: Settings) -> None:
    compare = settings.compare
    if set(compare.networks) != {*compare.backbones, compare.judge}:
        raise SacdError("compare.networks: must be compare.backbones and compare.judge.")
    if compare.judge in compare.backbones:
        raise SacdError(
            f"compare.judge: '{compare.judge}' is itself inverted (compare.backbones); "
            f"a judge must be a network that no adapter saw."
        )
    if compare.methods and not compare.adapters:
        raise SacdError("compare.adapters: is empty, but figures and tables of training need one.")
    if compare.segmenters and settings.images.source != "shapes":
        raise SacdError("segmenters: need true factors, which only images.source 'shapes' has.")


def _require_images(settings: Settings) -> None:
    if settings.images.per_class.train < settings.images.per_class.test:
        raise SacdError("images.per_class: train must not be less than test.")
    classes = settings.images.classes
    if isinstance(classes, list) and len(set(classes)) < len(classes):
        raise SacdError(f"images.classes: a class stands twice in {classes}.")
    if isinstance(autoencoder := settings.prior.autoencoder, TrainedAutoencoder):
        levels = autoencoder.options.get("block_out_channels")
        if not isinstance(levels, list) or not levels:
            raise SacdError("prior.autoencoder.options.block_out_channels: give its widths.")
        factor = 2 ** (len(levels) - 1)
        if settings.images.size % factor:
            raise SacdError(
                f"images.size: {settings.images.size} is no multiple of {factor}, by which the "
                f"autoencoder shrinks images (prior.autoencoder.options.block_out_channels)."
            )
    for name, decoder in settings.decoders.items():
        factor = 2 ** (len(decoder.widths) - 1)
        if settings.images.size % factor:
            raise SacdError(
                f"decoders.{name}.widths: of {len(decoder.widths)} levels, but images.size "
                f"{settings.images.size} is no multiple of {factor}; give fewer."
            )


def _require_networks(settings: Settings) -> None:
    for where, network in _networks(settings).items():
        for part, recipe in (
            ("training", network.training),
            ("finetune", network.finetune),
        ):
            if recipe and recipe.dense and settings.images.source != "shapes":
                raise SacdError(
                    f"{where}.{part}.dense: needs true masks, which only images.source "
                    f"'shapes' has."
                )
        if network.source != "train" and network.finetune is not None:
            raise SacdError(f"{where}.finetune: only a network of source 'train' is finetuned.")
        if network.source == "train" and network.input_size != settings.images.size:
            raise SacdError(
                f"{where}.input_size: is trained here on images of {settings.images.size} px "
                f"(images.size), so it must be that."
            )


def _networks(settings: Settings) -> dict[str, BackboneSettings]:
    """Every section that describes a network, by its path: backbones and critics."""
    networks = {f"backbones.{name}": backbone for name, backbone in settings.backbones.items()}
    if isinstance(autoencoder := settings.prior.autoencoder, TrainedAutoencoder):
        networks["prior.autoencoder.critic"] = autoencoder.critic
        if finetune := autoencoder.finetune:
            networks["prior.autoencoder.finetune.critic"] = finetune.critic
    return networks


def _require_recipes(settings: Settings) -> None:
    trained: dict[str, tuple[str, Training | None]]
    trained = {where: (n.source, n.training) for where, n in _networks(settings).items()}
    trained |= {f"segmenters.{n}": (p.source, p.training) for n, p in settings.segmenters.items()}
    for where, (source, recipe) in trained.items():
        if source == "train" and recipe is None:
            raise SacdError(f"{where}: source is 'train', so {where}.training must be given.")
    if settings.prior.source == "train" and not (
        settings.prior.autoencoder and settings.prior.unet
    ):
        raise SacdError("prior: source is 'train', so autoencoder and unet must be given.")


def _require_sweeps(settings: Settings) -> None:
    for name in settings.compare.sweeps:
        sweep = settings.sweeps[name]
        if sweep.method not in settings.compare.methods:
            raise unknown_name(
                "method", sweep.method, settings.compare.methods, f"sweeps.{name}.method"
            )
        for changes in sweep.combinations():
            try:
                changed(settings.methods[sweep.method], changes)
            except SacdError as error:
                raise SacdError(f"sweeps.{name}.over: {error}") from error


def _require_disturbances(settings: Settings) -> None:
    """What the embedded world has never shown is known before anything is trained."""
    if settings.images.source != "shapes":
        return
    for name in settings.compare.disturbances:
        chosen = settings.disturbances[name]
        for level in chosen.levels if isinstance(chosen, Unseen) else []:
            if level not in UNSEEN:
                raise unknown_name("unseen factor", level, UNSEEN, f"disturbances.{name}.levels")


def _require_concepts(settings: Settings) -> None:
    """Edits have what they need; true masks only the embedded world has."""
    for name in settings.compare.edits:
        if isinstance(edit := settings.edits[name], Steering):
            _require_directions(settings, name, edit)
    for name in settings.compare.disentangled:
        _require_told(settings, name)
    if settings.images.source == "shapes":
        return
    needs = "which only images.source 'shapes' has"
    for name in settings.compare.concepts:
        chosen = settings.concepts[name]
        if isinstance(chosen, LabelledConcepts) and chosen.where != "image":
            raise SacdError(f"concepts.{name}.where: needs true masks, {needs}; use 'image'.")
    for name in settings.compare.edits:
        match settings.edits[name]:
            case Union():
                raise SacdError(f"edits.{name}: a union needs true masks, {needs}.")
            case Steering(where="object" | "background"):
                raise SacdError(
                    f"edits.{name}.where: needs true masks, {needs}; use 'image' or 'active'."
                )
            case Transplant(region="object"):
                raise SacdError(f"edits.{name}.region: needs true masks, {needs}; use 'half'.")
            case Removal(region="object"):
                raise SacdError(f"edits.{name}.region: needs true masks, {needs}; use 'centre'.")


def _require_directions(settings: Settings, name: str, edit: Steering) -> None:
    """Directions by labels are named by a column and its kind."""
    concepts = settings.concepts[edit.concepts]
    if not isinstance(concepts, LabelledConcepts):
        return
    for direction in edit.directions:
        if concepts.column_of(direction) is None:
            raise SacdError(
                f"edits.{name}.directions: '{direction}' begins with none of "
                f"concepts.{edit.concepts}.columns ({', '.join(concepts.columns)})."
            )


def _require_told(settings: Settings, edit: str) -> None:
    """An edit in compare.disentangled steers, upwards too, along factors, which probes tell."""
    chosen, where = settings.edits[edit], f"compare.disentangled: '{edit}'"
    if not isinstance(chosen, Steering):
        raise SacdError(f"{where} must be of type 'steering'.")
    if max(chosen.strengths) <= 0:
        raise SacdError(f"{where}: edits.{edit}.strengths must have one above 0.")
    concepts = settings.concepts[chosen.concepts]
    if not isinstance(concepts, LabelledConcepts):
        raise SacdError(f"{where}: concepts.{chosen.concepts} must be of type 'labels'.")
    told = {column for name in settings.compare.probes for column in settings.probes[name].columns}
    if told.isdisjoint(map(concepts.column_of, chosen.directions)):
        raise SacdError(
            f"{where} needs compare.probes that tell what edits.{edit}.directions are of "
            f"({', '.join(chosen.directions)})."
        )
