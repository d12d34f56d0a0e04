"""Helpers of the rules: which clips there are, which files a stage needs, how long it may take. Plain Python."""

import ast
import contextlib
import copy
import csv
import fcntl
import functools
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import sys
from collections import namedtuple
from difflib import get_close_matches
from pathlib import Path

import av
import jsonschema
import psutil
import yaml
from safetensors import SafetensorError, safe_open
from snakemake.exceptions import WorkflowError
from snakemake.io import ancient
from snakemake.utils import update_config

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm")
# FFmpeg's names of their formats: play lists and the like, which could open other files, are not read.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm"
ID_PATTERN = "[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
# Clips that the workflow renders itself: the chain is benchmarked on these, its settings are chosen on those.
BENCHMARK_IDS = tuple(f"synth-{number:02}" for number in range(1, 21))
SWEEP_IDS = tuple(f"sweep-{number}" for number in range(1, 4))
# results/report/ is the report's folder.
RESERVED_IDS = ("report", *BENCHMARK_IDS, *SWEEP_IDS)
# Stage whose latents a method decodes, and the methods that decode them with the clip's own generator.
LATENTS = {"pti_traversal": "traverse", "pti": "invert", "traversal": "traverse"}
TUNED = ("pti_traversal", "pti")
ALL_METHODS = (*LATENTS, "blur", "pixelate", "mask")
# Embedded networks, and those that the training of each reads.
TRAINED_BEFORE = {
    "perceptual": (),
    "affect": (),
    "identity": ("perceptual",),
    "generator": ("perceptual", "affect"),
    "encoder": ("perceptual", "affect", "generator"),
}

# The words for `models`, each with the tiers whose networks `snakemake fetch_models` then downloads.
PRESETS = {
    "embedded": (),
    "permissive": ("permissive",),
    "research": ("permissive", "research"),
}

# Minutes to start with, seconds per frame, MiB to start with, MiB per frame: upper bounds for two CPU cores.
COSTS = {
    "extract": (5, 1.0, 3000, 0.01),
    "invert": (10, 1.0, 4000, 0.1),
    "tune": (10, 10.0, 6000, 0.2),
    "score": (20, 0.5, 4000, 0.1),
    "traverse": (20, 8.0, 4000, 0.2),
    "decode": (10, 0.5, 4000, 0.1),
    "compose": (5, 1.0, 2000, 0.01),
    "measure": (10, 2.0, 4000, 0.01),
}
# Where the container doesn't tell: a low bit rate, so that a clip is taken for too long rather than too short.
BYTES_PER_FRAME = 4000
# Frames of the longest rendered clip, for those that are yet to be rendered.
RENDERED_FRAMES = 270
# How the last line of a log begins where a program ended with an error and no traceback.
ENDED = r"\S*(Error|Exception|bash|python|\.py): |peekaboo\.\S+: |(ln|rm): "

Clip = namedtuple("Clip", "path audio")
RENDERED = {
    clip: Clip(f"synthetic/{clip}.mp4", "drop") for clip in (*BENCHMARK_IDS, *SWEEP_IDS)
}


def apply_preset(config, given, home):
    """Put a preset in place of a word given as `models`, in place in config; return the word, or None without one.

    `given` is what the user gave on the command line or in files of their own, which has the last word over
    config/WORD.yaml. Raises WorkflowError for a word that is none.
    """
    word = config.get("models")
    if not isinstance(word, str):
        return None
    if word not in PRESETS:
        raise WorkflowError(
            f"models: {word!r} is no set of networks; expected {', '.join(PRESETS)} "
            "or names of networks by role. See docs/configuration.md."
        )
    config["models"] = {}
    if word != "embedded":
        path = Path(home, "config", f"{word}.yaml")
        update_config(config, yaml.safe_load(path.read_text(encoding="utf-8")))
        update_config(
            config,
            {
                name: copy.deepcopy(value)
                for name, value in given.items()
                if name != "models"
            },
        )
    return word


def check_config(config, schema):
    """Fill the defaults of a JSON schema into config, in place.

    Raises WorkflowError naming every setting that is unknown or has a value it can't have, and what was expected.
    """
    schema = yaml.safe_load(Path(schema).read_text(encoding="utf-8"))
    fill_defaults(config, schema)
    if problems := schema_problems(config, schema):
        raise WorkflowError(
            "\n".join(
                [
                    "The configuration can't be used:",
                    *problems,
                    "See docs/configuration.md.",
                ]
            )
        )


def schema_problems(value, schema, kind="setting"):
    """Lines that say what keeps a value, of settings or of another kind of thing, from fitting a JSON schema."""
    errors = sorted(
        jsonschema.Draft202012Validator(schema).iter_errors(value),
        key=lambda error: [str(part) for part in error.path],
    )
    return [line for error in errors for line in describe(error, kind)]


def fill_defaults(config, schema):
    """Set what is missing in config, section by section."""
    for name, entry in schema["properties"].items():
        if "default" in entry:
            config.setdefault(name, json.loads(json.dumps(entry["default"])))
        if "properties" in entry and isinstance(config.get(name), dict):
            fill_defaults(config[name], entry)


def describe(error, kind):
    """Lines that say what is wrong with a setting, for a user who has never seen the schema."""
    path = ".".join(str(part) for part in error.path)
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        for name in sorted(set(error.instance) - set(known)):
            close = get_close_matches(name, known, 1)
            advice = (
                f"did you mean {close[0]}?"
                if close
                else f"known here: {', '.join(known)}"
            )
            yield f"  {path}{'.' if path else ''}{name} is no {kind}; {advice}"
    else:
        about = error.schema.get("description", "")
        yield f"  {path or kind}: {error.message}{f' ({about})' if about else ''}"


def hold(folder=".snakemake"):
    """Hold the working directory for a run; returns the file that is locked as long as this process lives.

    A killed run leaves Snakemake's locks behind, and maybe jobs that still compute. Where no other run holds the
    directory they are nobody's: the locks go, the jobs are killed.
    """
    Path(folder).mkdir(exist_ok=True)
    held, run = open(Path(folder, "held"), "a"), os.path.realpath(folder)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Another run is going on, or the disk knows no such locks: Snakemake's own decide.
        pass
    else:
        left = [process for process in psutil.process_iter() if run_of(process) == run]
        for process in left:
            process.kill()
        psutil.wait_procs(left)
        shutil.rmtree(Path(folder, "locks"), ignore_errors=True)
    # One that begins at the same moment may still look: it is waited for, or the next run would take this one for dead.
    with contextlib.suppress(OSError):
        fcntl.flock(held, fcntl.LOCK_SH)
    # Jobs inherit both; a worker keeps a card for so many seconds after a job.
    os.environ.update(PEEKABOO_RUN=run, PEEKABOO_KEEP="10")
    return held


def run_of(process):
    """Folder of the run that started a process, or None."""
    try:
        return process.environ().get("PEEKABOO_RUN")
    except psutil.Error:
        return None


def read_clips(source, audio):
    """Clips by id, in the order of their ids, from a folder of videos or a TSV list; `audio` where none is given.

    Raises WorkflowError naming every clip that can't be used.
    """
    source = Path(source)
    if source.is_dir():
        rows = folder_rows(source)
    elif source.is_file():
        rows = list_rows(source)
    else:
        raise WorkflowError(
            f"clips: no folder or list {source}; give a folder of videos, or a TSV with columns id, path"
        )
    problems, clips, seen = [], {}, {}
    for clip, path, own_audio in rows:
        if not re.fullmatch(ID_PATTERN, clip):
            problems.append(
                f"{path}: the id {clip!r} is not made of 1 to 64 letters, digits, - and _, with a letter or digit first; "
                + ("rename the file" if source.is_dir() else "change the id")
            )
        elif clip.casefold() in RESERVED_IDS:
            problems.append(
                f"{path}: the id {clip!r} is taken by results/{clip.casefold()}/; "
                + ("rename the file" if source.is_dir() else "change the id")
            )
        # Folders that differ in case alone are one folder on some file systems.
        elif clip.casefold() in seen:
            problems.append(
                f"{path}: the id {clip!r} is also that of {seen[clip.casefold()]}; ids must differ"
            )
        elif not path.is_file():
            problems.append(
                f"{path}: no such file (clip {clip}, named in {source}); paths are relative to the list"
            )
        elif own_audio not in ("", "drop", "copy"):
            problems.append(
                f"{path}: audio {own_audio!r} of clip {clip}; expected drop, copy or nothing"
            )
        seen.setdefault(clip.casefold(), path)
        clips[clip] = Clip(str(path), own_audio or audio)
    if problems:
        raise WorkflowError(
            "\n".join(
                [f"{len(problems)} of {len(rows)} clips can't be used:", *problems]
            )
        )
    return dict(sorted(clips.items()))


def found_clips(source, audio):
    """Clips as `read_clips` gives them and None, or none and its error: what needs no clips runs all the same."""
    try:
        return read_clips(source, audio), None
    except WorkflowError as error:
        return {}, error


def needed(problem):
    """Function that raises the error of `found_clips` for a rule that needs clips, else gives no file."""

    def files(wildcards):
        if problem:
            raise problem
        return []

    return files


def folder_rows(folder):
    """(id, path, audio) of each video in a folder, whatever case its suffix is in."""
    videos = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not path.name.startswith(".")
    )
    if not videos:
        raise WorkflowError(
            f"clips: no video in the folder {folder}; expected files ending in {', '.join(SUFFIXES)}"
        )
    return [(path.stem, path, "") for path in videos]


def list_rows(table):
    """(id, path, audio) of each row of a TSV; relative paths start at the folder of the TSV."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            header, *rows = [
                row for row in csv.reader(file, delimiter="\t") if row
            ] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise WorkflowError(
            f"clips: {table} is no TSV: {error}; save it as text in UTF-8, tabs between columns"
        ) from error
    if not {"id", "path"} <= set(header) <= {"id", "path", "audio"} or len(
        set(header)
    ) < len(header):
        raise WorkflowError(
            f"clips: the first line of {table} has the columns {', '.join(header) or 'none'}; "
            "expected id and path and, if wanted, audio, with tabs between them"
        )
    if not rows:
        raise WorkflowError(
            f"clips: {table} lists no clip; add a line with id and path for each"
        )
    for number, row in enumerate(rows, 1):
        if not 2 <= len(row) <= len(header):
            raise WorkflowError(
                f"clips: row {number} of {table} has {len(row)} columns; expected {', '.join(header)}"
            )
    named = [dict(zip(header, row)) for row in rows]
    return [
        (row.get("id", ""), table.parent / row.get("path", ""), row.get("audio", ""))
        for row in named
    ]


def read_registry(path, schema):
    """The networks of models.yaml by name.

    Raises WorkflowError naming every entry and field that does not fit the JSON schema or names no other entry.
    """
    try:
        registry = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise WorkflowError(f"{path} is no YAML: {error}") from error
    problems = schema_problems(
        registry, yaml.safe_load(Path(schema).read_text(encoding="utf-8")), "field"
    )
    if not problems:
        problems = [
            f"  {name}.{field}: expected entries with a file to download, found {other}"
            for name, entry in registry.items()
            for field, others in (
                ("parts", entry.get("parts", [])),
                ("convert.trunk", [entry.get("convert", {}).get("trunk", name)]),
            )
            for other in others
            if "addresses" not in registry.get(other, {}) and other != name
        ]
    if problems:
        raise WorkflowError(
            "\n".join(
                [
                    f"The networks of {path} can't be used:",
                    *problems,
                    f"See the head of that file and {schema}.",
                ]
            )
        )
    return registry


def steering(registry, role):
    """Names of the networks that can take a role in making the edit."""
    return [
        name
        for name, entry in registry.items()
        if re.match(rf"{role}\b", entry["role"]) and entry["tier"] != "package"
        # Others of these roles only judge.
        and (role not in ("identity", "affect") or "optimises" in entry["role"])
    ]


def measuring(registry, what):
    """Names of the networks that can measure something, and none where that can be left out."""
    names = [name for name, entry in registry.items() if what in entry.get("judge", {})]
    # The mesh is always at work, and gives the pose where no judge does.
    names += ["mediapipe_mesh"] if what == "pose" else []
    return names + (["none"] if what in ("identity", "action_units") else [])


def check_models(registry, models, measure, accepted):
    """Raise WorkflowError for a network that the registry doesn't have or has for something else, for an identity judge
    that also steers the edit, and for a licence that was not accepted.
    """
    problems = []
    for section, settings, fitting in (
        ("models", models, steering),
        ("measure", measure, measuring),
    ):
        for role, name in settings.items():
            known = fitting(registry, role)
            if name not in known:
                problems.append(
                    f"{section}.{role}: {name!r} is no {role} network of resources/models.yaml for {section}; "
                    f"expected {', '.join(known)}"
                )
    if measure["identity"] == models["identity"]:
        problems.append(
            f"measure.identity: {measure['identity']} steers the edit (models.identity), which would always look good to "
            "it; take another or none"
        )
    if problems:
        raise WorkflowError("\n".join(problems))
    check_licences(registry, {*models.values(), *measure.values()} - {"none"}, accepted)


def check_licences(registry, names, accepted):
    """Raise WorkflowError for networks without commercial use whose licence is not among the accepted ones."""
    refused = [
        name
        for name in registry
        if name in names
        and registry[name].get("non_commercial")
        and registry[name]["licence"] not in accepted
    ]
    if refused:
        licences = list(dict.fromkeys(registry[name]["licence"] for name in refused))
        raise WorkflowError(
            "\n".join(
                [
                    "These networks may not be used commercially, and their licences are not accepted:",
                    *(
                        f"  {name}: {registry[name]['licence']}, {registry[name]['licence_url']}"
                        for name in refused
                    ),
                    "Read them and, if they fit what you do, add their names: "
                    f"accept_licences: {json.dumps(licences)}. See docs/licences.md.",
                ]
            )
        )


def weights_files(registry, name, home, downloads):
    """Paths, from here, of the files that a network is loaded from; none for one that a package brings."""
    entry = registry[name]
    if entry["tier"] == "package":
        return []
    if entry["tier"] == "embedded":
        return [os.path.relpath(Path(home, entry["file"]))]
    if "parts" in entry:
        parts = (
            weights_files(registry, part, home, downloads) for part in entry["parts"]
        )
        return [path for files in parts for path in files]
    return [
        f"{downloads}/{f'{name}.safetensors' if 'convert' in entry else entry['file']}"
    ]


def weights(registry, models, home, downloads):
    """Path, from here, of the weights that config's `models` names for each role."""
    return {
        role: weights_files(registry, name, home, downloads)[0]
        for role, name in models.items()
    }


def judges(registry, measure, home, downloads):
    """Files of the measuring judges by their classes, in the order of config's `measure`."""
    return {
        registry[name]["judge"][what]: weights_files(registry, name, home, downloads)
        for what, name in measure.items()
        if name != "none" and "judge" in registry[name]
    }


def judge_options(judges):
    """Measure's words for its judges: a class, and its files where it has any."""
    return " ".join(
        f"{name}={shlex.quote(','.join(files))}" if files else name
        for name, files in judges.items()
    )


def judge_code(judges, code):
    """Paths of the code of the measure stage and of its judges, which it imports by the names in the registry."""
    modules = {f"peekaboo.judges.{name.split('.')[0]}" for name in judges}
    found = [code(module) for module in ("peekaboo.stages.measure", *sorted(modules))]
    return sorted({path for paths in found for path in paths})


def check_downloads(registry, names, downloads):
    """Raise WorkflowError for a file already there of the networks `names` that is not the registry's.

    Checkpoints are looked at when they are converted; those used as they are have to be looked at here.
    """
    for name in names:
        entry = registry[name]
        path = Path(downloads, entry.get("file", ""))
        if "addresses" not in entry or "convert" in entry or not path.is_file():
            continue
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != entry.get("sha256", found):
            raise WorkflowError(
                f"{path}: expected the SHA-256 {entry['sha256']} of {name} in resources/models.yaml, found {found} "
                f"({path.stat().st_size} bytes); delete the file, and snakemake fetch_models downloads it again"
            )


def to_download(registry, word, names):
    """Entries that `snakemake fetch_models` gets: all of the tiers of `models`' word, else those of the networks `names`."""
    if word in PRESETS:
        return [
            name
            for name, entry in registry.items()
            if entry["tier"] in PRESETS[word] and "addresses" in entry
        ]
    used = [part for name in names for part in registry[name].get("parts", [name])]
    used += [
        registry[name]["convert"]["trunk"]
        for name in used
        if "trunk" in registry[name].get("convert", {})
    ]
    return [name for name in registry if name in used and "addresses" in registry[name]]


def fetched(registry, names, downloads, accepted):
    """Function that gives the files of downloaded entries, those made of them too; their licences have to be accepted."""

    def files(wildcards):
        check_licences(registry, names, accepted)
        raw = [f"{downloads}/{registry[name]['file']}" for name in names]
        made = [
            f"{downloads}/{name}.safetensors"
            for name in names
            if "convert" in registry[name]
        ]
        return raw + made

    return files


def fetch_options(registry, mirror, accepted):
    """Function that gives the options of the download program.

    Snakemake doesn't compare what a function makes of the output: another mirror is no reason to run again.
    """

    def words(wildcards, output):
        given = ["--registry", registry, "--folder", os.path.dirname(output[0])]
        given += ["--mirror", mirror] if mirror else []
        return shlex.join([*given, "--accept-licences", *accepted])

    return words


def checkpoints_of(registry, downloads):
    """Function that gives the downloaded files that the safetensors file of a network is made of."""

    def files(wildcards):
        entry = registry[wildcards.weights]
        trunk = entry["convert"].get("trunk")
        names = [wildcards.weights, *([trunk] if trunk else [])]
        return [f"{downloads}/{registry[name]['file']}" for name in names]

    return files


def resolution(generator, declared=None):
    """Side in pixels of the images of a generator, from the header of its safetensors file.

    `declared` is that of the registry, taken where the file is yet to be downloaded.
    """
    if declared and not os.path.exists(generator):
        return declared
    try:
        with safe_open(generator, framework="numpy") as file:
            return json.loads(file.metadata()["constructor"])["img_resolution"]
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        raise WorkflowError(
            f"models.generator: {generator} can't be read as a generator: {error!r}"
        ) from error


def code_of(module, package, folder=".snakemake/code"):
    """Paths of what a module and all that it imports say to Python, kept in `folder` without comments and docstrings.

    As inputs of a rule they make it run again when its code changes, and only then; `package` is as for `sources`.
    """
    root = Path(package).parent
    return [
        essence(os.path.abspath(path), os.path.relpath(path, root), folder)
        for path in sources(module, package)
    ]


@functools.cache
def essence(path, name, folder):
    """Path of a Python file's code as `name` in `folder`, which is written where it is not there or says another thing."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if (
            isinstance(
                node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            )
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    code, target = ast.unparse(tree), Path(folder, name)
    if not target.is_file() or target.read_text(encoding="utf-8") != code:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Jobs of a cluster read the workflow at the same time.
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        partial.write_text(code, encoding="utf-8")
        os.replace(partial, target)
    return str(target)


def sources(module, package):
    """Paths, from here, of a module and of all that it imports of its package, which lies in the folder `package`."""
    root = Path(package).parent
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        parent = name.rpartition(".")[0]
        folder = root.joinpath(*name.split("."))
        for file, inside in (
            (folder.with_suffix(".py"), parent),
            (folder / "__init__.py", name),
        ):
            if file.is_file() and file not in found:
                found.add(file)
                # A package's __init__ runs before any of its modules.
                waiting += [parent, *imported(file, inside)]
    return sorted(os.path.relpath(file) for file in found)


@functools.cache
def imported(file, package):
    """Dotted names that a Python file in `package` may import, those inside functions too."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            parts = parts[: len(parts) + 1 - node.level] if node.level else []
            base = ".".join([*parts, node.module] if node.module else parts)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


@functools.cache
def clip_header(path):
    """About how many frames a clip has, by its header or by its size where that doesn't tell; and if it has sound."""
    try:
        with av.open(
            path, options={"format_whitelist": FORMATS}, metadata_errors="replace"
        ) as container:
            sound = bool(container.streams.audio)
            if container.streams.video and container.duration:
                rate = container.streams.video[0].average_rate or 30
                return math.ceil(container.duration / av.time_base * rate), sound
    except av.FFmpegError:
        sound = False
    return math.ceil(os.path.getsize(path) / BYTES_PER_FRAME), sound


def known(clips, clip):
    """One of the user's clips, or of those that the workflow renders itself."""
    return clips[clip] if clip in clips else RENDERED[clip]


def clip_frames(clip):
    """About how many frames a clip has; of one that is yet to be rendered, how many it has at the most."""
    return clip_header(clip.path)[0] if os.path.exists(clip.path) else RENDERED_FRAMES


def minutes(stage, clips):
    """Function that gives the run time of a stage's job in minutes; more at every attempt."""

    def runtime(wildcards, attempt):
        base, seconds, _, _ = COSTS[stage]
        frames = clip_frames(known(clips, wildcards.clip))
        return math.ceil((base + seconds * frames / 60) * attempt)

    return runtime


def memory(stage, clips):
    """Function that gives the memory of a stage's job in MiB; more at every attempt."""

    def mem_mb(wildcards, attempt):
        _, _, base, per_frame = COSTS[stage]
        frames = clip_frames(known(clips, wildcards.clip))
        return math.ceil((base + per_frame * frames) * attempt)

    return mem_mb


def report_memory(wildcards, attempt):
    """Memory of the report in MiB; it takes one clip at a time."""
    return 3000 * attempt


def report_minutes(clips, methods):
    """Function that gives the report's run time in minutes: it reads each clip once and each of its versions."""

    def runtime(wildcards, attempt):
        frames = sum(clip_frames(clip) for clip in clips.values())
        return math.ceil((5 + 0.1 * frames * (1 + len(methods)) / 60) * attempt)

    return runtime


def page_parts(home):
    """Paths, from here, of the templates of the report's page."""
    return sorted(
        os.path.relpath(path) for path in Path(home, "workflow", "report").iterdir()
    )


def outcome(clip, methods, checkpoints):
    """Function that gives what a clip ends in, known once extract has run: why it is withheld, or all its results."""

    def files(wildcards):
        extract = Path(checkpoints.extract.get(clip=clip).output["report"])
        if json.loads(extract.read_text(encoding="utf-8"))["status"] == "withheld":
            return [f"results/{clip}/withheld.json"]
        # A stage that is killed between its two files would be taken for done, were not both asked for.
        videos = ("anonymized.mp4", "compose.json")
        numbers = ("metrics.tsv", "summary.json", "measure.json")
        results = [
            f"results/{clip}/{method}/{name}"
            for method in methods
            for name in videos + numbers
        ]
        return results + drawing_reports(clip, methods)

    return files


def drawing_reports(clip, methods):
    """What the stages of a generator say of themselves, for the methods of a clip that have one."""
    drawn = [method for method in methods if method in LATENTS]
    stages = ["invert", "tune"] if drawn else []
    if any(LATENTS[method] == "traverse" for method in drawn):
        stages += ["score", "traverse"]
    own = [f"results/{clip}/{method}/decode.json" for method in drawn]
    return [f"results/{clip}/{stage}.json" for stage in stages] + own


def original(clips, problem=None):
    """Function that gives the path of a clip's source; raises the error of `found_clips` for a clip of the user's."""

    def path(wildcards):
        if problem and wildcards.clip not in RENDERED:
            raise problem
        found = known(clips, wildcards.clip).path
        # Snakemake would name a newer file in its log; `stamp` tells it, and an older one, too.
        return found if wildcards.clip in RENDERED else ancient(found)

    return path


def stamp(clips):
    """Function that gives what changes when another file takes the place of a clip of the user's: a hash of its size
    and its time.
    """

    def of(wildcards):
        path = Path(known(clips, wildcards.clip).path)
        if wildcards.clip in RENDERED or not path.exists():
            return ""
        found = path.stat()
        return hashlib.sha256(
            f"{found.st_size} {found.st_mtime_ns}".encode()
        ).hexdigest()

    return of


def if_there(path):
    """A file that a rule reads where there is one, else nothing."""
    return [path] if os.path.exists(path) else []


def latents(wildcards):
    """The stage file with the latents that a method decodes."""
    return f"results/{wildcards.clip}/{LATENTS[wildcards.method]}.h5"


def own_generator(wildcards):
    """The clip's own generator for a method that decodes with it, else nothing."""
    return f"results/{wildcards.clip}/tune.h5" if wildcards.method in TUNED else []


def decoded(wildcards):
    """The decoded crops of a method that has them, else nothing."""
    return (
        f"results/{wildcards.clip}/{wildcards.method}/decode.h5"
        if wildcards.method in LATENTS
        else []
    )


def options(settings, **more):
    """Settings by name as the long options of a command; true is a flag, false is left out.

    One text, because Snakemake compares the values of params without their names: it would not see two swapped.
    """
    given = {
        name: value for name, value in (settings | more).items() if value is not False
    }
    return " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in given.items()
    )


def option(name):
    """Function that gives a command's option for the input called `name`, or nothing when there is none."""
    return lambda wildcards, input: (
        options({name: input[name]}) if input.get(name) else ""
    )


def sound(clips):
    """Function that gives compose's option for the sound of a clip, if it has any and is to keep it."""

    def audio(wildcards):
        clip = known(clips, wildcards.clip)
        return (
            f"--audio results/{wildcards.clip}/source"
            if clip.audio == "copy" and clip_header(clip.path)[1]
            else ""
        )

    return audio


def trained_before(wildcards):
    """Weights that the training of an embedded network reads, by role."""
    return {
        role: f"training/{role}.safetensors"
        for role in TRAINED_BEFORE[wildcards.network]
    }


def before_options(wildcards):
    """The same as options of the training program."""
    return " ".join(
        f"--{role} {path}" for role, path in trained_before(wildcards).items()
    )


def shell_prefix(home, conda):
    """What each job's shell starts with: its Python is that which runs Snakemake, or that of the conda environment."""
    if conda:
        return f"export PYTHONHASHSEED=0 PYTHONPATH={shlex.quote(f'{home}/src')}; "
    return f"export PYTHONHASHSEED=0 PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; "


def finished(clips, methods, unfinished=()):
    """Lines that name the anonymised clips, and those that are withheld and why; nothing of unfinished clips."""
    done = [clip for clip in clips if clip not in unfinished]
    withheld = {
        clip: json.loads(path.read_text(encoding="utf-8"))["reason"]
        for clip in done
        if (path := Path("results", clip, "withheld.json")).is_file()
    }
    videos = [
        f"results/{clip}/{method}/anonymized.mp4" for clip in done for method in methods
    ]
    # What was asked for may be one stage, one method or a benchmark: only what is there is named.
    videos = [f"  {path}" for path in videos if os.path.exists(path)]
    lines = ["Anonymised clips:", *videos] if videos else []
    if withheld:
        lines += [f"Withheld, {len(withheld)} of {len(clips)} clips:"]
        lines += [f"  {clip}: {reason}" for clip, reason in withheld.items()]
    return lines


def closing(clips, methods):
    """What the user is told at the end: where the results are, and which clips are withheld and why."""
    pages = {
        "Table": "results/table.tsv",
        "Report": "results/report/index.html",
    }
    lines = [
        f"{name + ':':7} {path}" for name, path in pages.items() if os.path.exists(path)
    ]
    return "\n".join(finished(clips, methods) + lines)


def failing(scheduler, clips, methods):
    """What the user is told when a run ends early: which jobs failed and why, what is done, and what to do.

    `scheduler` is Snakemake's, which knows the jobs that failed for good and those that are left.
    """
    # A group holds jobs that share a submission to a cluster.
    failed, left = (
        [job for one in some for job in getattr(one, "jobs", [one])]
        for some in (scheduler.failed, [*scheduler.running, *scheduler.remaining_jobs])
    )
    left += failed
    unfinished = {job.wildcards.get("clip") for job in left}
    # The failed ones come last, where they are seen.
    lines = finished(clips, methods, unfinished)
    if failed:
        lost = {job.wildcards.get("clip") for job in failed} & {*clips}
        count = f", {len(lost)} of {len(clips)} clips" if lost else ""
        lines += [f"Failed{count}:"]
        lines += sorted(f"  {job_name(job)}: {why(job.log)}" for job in failed)
    else:
        lines += ["Stopped before all was done."]
    lines += [
        "Mend the cause and give the same command again: it runs only what is missing."
    ]
    if any(job.rule.name == "report" for job in left):
        stale = os.path.exists("results/table.tsv")
        lines += [
            "The table and the report are made last, when every clip is done or left out"
            + ("; those that are there are of an earlier run." if stale else ".")
        ]
    return "\n".join(lines)


def job_name(job):
    """A job by its clip and method, or whatever else it is for, and its stage."""
    return " ".join([*job.wildcards, job.rule.name])


def why(logs):
    """Why a job failed, by the log that its stage wrote, which is named."""
    # A job that was never started has the log of an earlier run, or none.
    started = psutil.Process().create_time()
    logs = [path for path in map(Path, logs) if path.is_file()]
    logs = [path for path in logs if path.stat().st_mtime >= started]
    if not logs:
        return "it was not started, see above"
    text = logs[0].read_text(encoding="utf-8", errors="replace")
    return f"{error_of(text.splitlines())}, see {logs[0]}"


def error_of(lines):
    """The error that the lines of a log end with, and what is likely where there is none."""
    lines = [line.rstrip() for line in lines if line.strip()]
    traces = [
        n
        for n, line in enumerate(lines)
        if "Traceback (most recent call last)" in line
        and not lines[max(n - 1, 0)].startswith("Exception ignored")
    ]
    if traces:
        # Behind the calls, which are indented.
        after = [line for line in lines[traces[-1] + 1 :] if not line.startswith(" ")]
        if after:
            return after[0]
    if lines and re.match(ENDED, lines[-1]):
        return lines[-1]
    if lines and lines[-1].startswith("stage="):
        return "it came to its end, but its files are not there: a slow file system?"
    # Programs that talk to the user have said it on the screen.
    return "no error in its log: killed (out of memory or time?), unless the reason is above"
