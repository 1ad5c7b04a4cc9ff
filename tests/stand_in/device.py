"""A stand-in for a CUDA device: tensors that claim to lie on cuda:0, compute on the CPU, and are watched.

A wrapper subclass holds a CPU tensor and says cuda:0 to C++ and Python alike. Dispatch keys (autograd, autocast of
"cuda", branches on `is_cuda`) are therefore those of a GPU, while values are real: runs are saved, resumed and scored.
torch's own FakeTensorMode has no values, so that `.item()`, masks and checkpoints would stop it.

Refused, as CUDA refuses it, are operations that mix devices, generators of the wrong device, and `.numpy()` of a tensor
that was not copied. Counted by hook and line of the project are waits of the host for the device, and convolutions of
which one operand has its channels last and the other not; and the shapes of convolutions are kept, as cuDNN times its
algorithms once for each.

Limits: no kernel of CUDA runs, so that nothing is seen of its rounding, speed, memory, graphs, streams and NCCL.
Strides of results are those of CPU kernels. Compiled networks are not driven.

This module must be imported before torch is used: it starts the program again with a shim loaded.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

SHIM = r"""
static signed char count = 0;
void stand_in_devices(int n) { count = (signed char)n; }
signed char _ZN3c104cuda12device_countEv(void) { return count; }
signed char _ZN3c104cuda26device_count_ensure_non_zeroEv(void) { return count; }
int cuDevicePrimaryCtxGetState(int d, unsigned *f, int *a) { (void)d; *f = 0; *a = 0; return 0; }
#define STUB(name) int name(void) { return 999; }
STUB(cuCtxGetCurrent) STUB(cuCtxSetCurrent) STUB(cuDeviceGet) STUB(cuDeviceGetAttribute) STUB(cuDevicePrimaryCtxRetain)
STUB(cuFuncGetAttribute) STUB(cuFuncSetAttribute) STUB(cuFuncSetCacheConfig) STUB(cuGetErrorString)
STUB(cuLaunchCooperativeKernel) STUB(cuLaunchKernel) STUB(cuLinkAddData_v2) STUB(cuLinkComplete) STUB(cuLinkCreate_v2)
STUB(cuModuleGetFunction) STUB(cuModuleLoad) STUB(cuModuleLoadData) STUB(cuModuleLoadDataEx) STUB(cuModuleUnload)
STUB(cuOccupancyMaxActiveBlocksPerMultiprocessor) STUB(cuPointerGetAttribute) STUB(cuTensorMapEncodeTiled)
"""
"""The autograd engine asks in C++ how many devices there are, and libcuda.so.1 whether a context exists."""
LOADED = "STAND_IN_SHIM"
"""The environment variable that says that the shim is loaded."""
REAL = "--real" in sys.argv
"""On a machine with a GPU: its own device is used, and nothing is watched."""


def restart_with_shim() -> None:
    """Start this program again with the shim loaded, unless it is loaded."""
    if os.environ.get(LOADED):
        return
    folder = Path(tempfile.gettempdir()) / f"stand-in-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / "libcuda.so.1"
    if not library.exists():
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise SystemExit("a C compiler is needed, for ten lines")
        with tempfile.TemporaryDirectory(dir=folder) as building:
            source, made = Path(building) / "shim.c", Path(building) / library.name
            source.write_text(SHIM)
            command = [compiler, "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(made), str(source)]
            subprocess.run(command, check=True)
            made.replace(library)
    arguments = sys.orig_argv[1:]
    os.execve(sys.executable, [sys.executable, *arguments], os.environ | {LOADED: "1", "LD_PRELOAD": str(library)})


if not REAL:
    restart_with_shim()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._mode_utils import no_dispatch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

aten = torch.ops.aten
CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
ROOT = str(Path(__file__).parents[2]) + "/"
HOOKS = (
    "update", "begin_epoch", "end_epoch", "watch", "receive", "prepare", "measure", "measure_landscape", "evaluate",
    "evaluate_text", "save", "restore", "set_up_method", "train_epoch",
)  # fmt: skip
"""The functions by whose names places are reported: hooks of methods, and steps of a run."""


def is_own(file: str) -> bool:
    """Return whether a file belongs to the project or to a plugin, not to Python, a package or this stand-in."""
    return file != __file__ and not any(part in file for part in ("/site-packages/", "/lib/python", "<"))


class Watch:
    """What was seen.

    Attributes:
        waits: how often the host waited for the device, by hook, line and reason.
        layouts: how often the operands of a convolution had different layouts, by hook, line and kind.
        convolutions: the shapes of convolutions, forward and backward, since `new_convolutions` was called.
        known_convolutions: those before.
        recurrent: the types in which cuDNN's LSTM computed, and whether its weights lay in one piece.
        updates: how many updates were taken.
    """

    def __init__(self) -> None:
        self.clear()
        self.known_convolutions: set[tuple[object, ...]] = set()

    def clear(self) -> None:
        """Forget what was seen, but for the shapes that cuDNN would know."""
        self.waits: Counter[tuple[str, str, str]] = Counter()
        self.layouts: Counter[tuple[str, str, str]] = Counter()
        self.recurrent: Counter[tuple[str, str]] = Counter()
        self.convolutions: set[tuple[object, ...]] = set()

    def place(self) -> tuple[str, str]:
        """Return the hook in which the program is, and the innermost line of the project or of a plugin."""
        frame: FrameType | None = sys._getframe(2)
        line = hook = ""
        while frame is not None and not hook:
            code = frame.f_code
            if is_own(code.co_filename):
                line = line or f"{code.co_filename.removeprefix(ROOT)}:{frame.f_lineno}"
                hook = code.co_name if code.co_name in HOOKS else ""
            frame = frame.f_back
        return hook or "-", line or "-"

    def wait(self, reason: str) -> None:
        """Count a wait."""
        self.waits[(*self.place(), reason)] += 1

    def new_convolutions(self) -> set[tuple[object, ...]]:
        """Return the shapes that were seen for the first time since the last call."""
        new = self.convolutions - self.known_convolutions
        self.known_convolutions |= new
        return new


WATCH = Watch()
GENERATOR = torch.Generator()
"""The default generator of the device."""


class MixedDevicesError(RuntimeError):
    """What CUDA would refuse."""


class StandIn(Tensor):
    """A tensor that claims to lie on cuda:0."""

    elem: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem):
        return Tensor._make_wrapper_subclass(
            cls,
            elem.shape,
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            layout=elem.layout,
            device=CUDA,
        )

    def __init__(self, elem):
        self.elem = elem

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def data_ptr(self):
        return self.elem.data_ptr()

    def untyped_storage(self):
        return self.elem.untyped_storage()

    def tolist(self):
        WATCH.wait("tolist")
        return self.elem.tolist()

    def numpy(self, *args, **kwargs):
        raise MixedDevicesError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def __deepcopy__(self, memo):
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError("Only Tensors created explicitly by the user support the deepcopy protocol")
        copy = StandIn(self.elem.clone(memory_format=torch.preserve_format)).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copy._is_param = True
        if self.grad is not None:
            copy.grad = self.grad.__deepcopy__(memo)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol):
        return self.elem.detach().__reduce_ex__(protocol)  # as map_location="cpu" would load it

    def __repr__(self, *args, **kwargs):
        return f"StandIn({self.elem!r}, device=cuda:0)"


def flatten(values):
    """Yield the values that an operation takes or returns, which may be lists of tensors."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def apply(change, value):
    """Change a value that an operation takes or returns, or each of a list."""
    return type(value)(map(change, value)) if isinstance(value, list | tuple) else change(value)


def plain(value):
    """Return the CPU tensor inside of one that claims to lie on the device."""
    return value.elem if isinstance(value, StandIn) else value


# --- what is refused, and what is counted -----------------------------------------------------------------------

INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
WAITING = {
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_dim.default,
    aten.unique_consecutive.default, aten.equal.default, aten.bincount.default, aten.repeat_interleave.Tensor,
    aten.is_nonzero.default, aten.histc.default, aten._linalg_check_errors.default, aten.multinomial.default,
}  # fmt: skip
"""Operations whose result's shape, or answer, the host waits for."""
CONVOLUTIONS = {aten.convolution.default: 0, aten.convolution_backward.default: 1}
"""Convolutions, with the position of their input, which the weight follows."""
FUSED_STEPS = {aten._fused_sgd_.default, aten._fused_adam_.default, aten._fused_adamw_.default}


def check_devices(func, args, kwargs):
    """Refuse tensors of both devices, but for CPU scalars in pointwise operations, and indices."""
    tensors = [t for t in flatten((*args, *kwargs.values())) if isinstance(t, Tensor)]
    others = [t for t in tensors if not isinstance(t, StandIn)]
    if len(others) in (0, len(tensors)) or func in (aten.copy_.default, aten._to_copy.default):
        return
    if func in INDEXING:
        check_index(func, args)
    elif any(t.dim() for t in others):
        shapes = [(tuple(t.shape), "cuda" if isinstance(t, StandIn) else "cpu") for t in tensors]
        raise MixedDevicesError(f"Expected all tensors to be on the same device: {func} of {shapes}")


def check_index(func, args):
    """Refuse an index on the device for a tensor on the CPU, and values of another device than the tensor's."""
    indices = [t for t in args[1] if t is not None]
    if not isinstance(args[0], StandIn) and any(isinstance(t, StandIn) for t in indices):
        raise MixedDevicesError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if isinstance(args[0], StandIn) and any(not isinstance(t, StandIn) for t in indices):
        WATCH.wait("an index on the CPU is copied to the device")
    if func is not aten.index.Tensor and isinstance(args[0], StandIn) != isinstance(args[2], StandIn) and args[2].dim():
        raise MixedDevicesError(f"{func}: values on another device than the tensor")


def check_fused_step(func, args):
    """Refuse what CUDA's fused optimizers refuse: other strides, types or devices than the parameters'."""
    for tensors in args[1:6]:
        for p, t in zip(args[0], tensors, strict=False) if isinstance(tensors, list | tuple) else ():
            if t.numel() == 1 and p.numel() != 1:
                if not isinstance(t, StandIn):
                    raise MixedDevicesError(f"{func}: the step is on the CPU")
                continue
            own, other = ([s for n, s in zip(x.shape, x.stride(), strict=True) if n != 1] for x in (plain(p), plain(t)))
            if own != other or p.dtype != t.dtype or isinstance(p, StandIn) != isinstance(t, StandIn):
                raise MixedDevicesError(
                    f"{func}: {tuple(p.shape)} has strides {p.stride()}, {t.stride()}, or other types"
                )


def observe(func, args):
    """Count what an operation on the device makes the host wait for, and layouts of convolutions."""
    if func in WAITING:
        WATCH.wait(str(func))
    if func in INDEXING and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]):
        WATCH.wait("boolean mask")
    if func in CONVOLUTIONS:
        x, w = (plain(t) for t in args[CONVOLUTIONS[func] : CONVOLUTIONS[func] + 2])
        WATCH.convolutions.add((func.name(), tuple(x.shape), tuple(w.shape), x.dtype))
        if x.dim() == 4:
            last = [t.is_contiguous(memory_format=torch.channels_last) for t in (x, w)]
            if not all(last):
                what = ("weight" if last[0] else "input" if last[1] else "neither") + " not channels last"
                WATCH.layouts[(*WATCH.place(), what.replace("neither not", "neither"))] += 1


@contextlib.contextmanager
def drawing(func, kwargs):
    """Let an operation that draws random numbers on the device draw them from the device's generator."""
    if kwargs.get("generator") is not None:
        raise MixedDevicesError(f"{func}: Expected a 'cuda' device type for generator but found 'cpu'")
    before = torch.get_rng_state()
    torch.set_rng_state(GENERATOR.get_state())
    try:
        yield
    finally:
        GENERATOR.set_state(torch.get_rng_state())
        torch.set_rng_state(before)


# --- running ------------------------------------------------------------------------------------------------------


def is_cuda(device) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def run(func, args, kwargs):
    """Do an operation that has to do with the device."""
    kwargs = dict(kwargs)
    known = {id(t.elem): t for t in flatten((*args, *kwargs.values())) if isinstance(t, StandIn)}
    if func is aten._to_copy.default:
        return move(func, args, kwargs)
    if func is aten.copy_.default and isinstance(args[0], StandIn) != isinstance(args[1], StandIn):
        WATCH.wait("copied to the CPU" if isinstance(args[1], StandIn) else "copied from pageable memory, in place")
        func(plain(args[0]), plain(args[1]))
        return args[0]
    if func is aten._local_scalar_dense.default:
        WATCH.wait("item")
        return func(plain(args[0]))
    if func in OWN_KERNELS:
        return OWN_KERNELS[func](*args, **kwargs)
    check_devices(func, args, kwargs)
    if func in FUSED_STEPS:
        check_fused_step(func, args)
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs["device"] = CPU
    kwargs.pop("pin_memory", None)
    draws = torch.Tag.nondeterministic_seeded in func.tags
    with drawing(func, kwargs) if draws else contextlib.nullcontext():
        out = func(*(apply(plain, a) for a in args), **{name: apply(plain, a) for name, a in kwargs.items()})
    if wanted is not None and not is_cuda(wanted):
        return out
    if torch.Tag.inplace_view in func.tags:
        reshape_wrapper(func, args, kwargs)
    observe(func, args)
    return apply(lambda t: known[id(t)] if id(t) in known else StandIn(t) if isinstance(t, Tensor) else t, out)


def move(func, args, kwargs):
    """Copy a tensor to another device or type."""
    source, wanted = isinstance(args[0], StandIn), kwargs.pop("device", None)
    target = source if wanted is None else is_cuda(wanted)
    asynchronous = kwargs.pop("non_blocking", False)
    if source and not target:
        WATCH.wait("copied to the CPU")
    elif target and not source and not (asynchronous and getattr(args[0], "_pinned", False)):
        WATCH.wait("copied from pageable memory")
    out = func(plain(args[0]), **kwargs)
    if not target:
        return out
    return StandIn(out.clone() if out is args[0] else out)


def reshape_wrapper(func, args, kwargs):
    """Give a tensor itself the shape that an operation such as `squeeze_` gave what it holds."""
    with no_dispatch():
        before = torch._C._meta_in_tls_dispatch_include()
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            func(*args, **kwargs)
        finally:
            torch._C._set_meta_in_tls_dispatch_include(before)


class Mode(TorchDispatchMode):
    """Makes tensors on the device where it is asked for by name."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        own = any(isinstance(t, StandIn) for t in flatten((*args, *kwargs.values())))
        if own or is_cuda(kwargs.get("device")):
            return run(func, args, kwargs)
        return func(*args, **kwargs)


# --- cuDNN's LSTM and BatchNorm, which have no kernels on the CPU -----------------------------------------------------


def cudnn_lstm(x, weight, stride0, weight_buf, hx, cx, mode, hidden, proj, layers, batch_first, *rest):
    """Run the LSTM in float32 on the CPU; C++ calls this, and its backward pass."""
    dropout, train, bidirectional = rest[:3]
    check_devices("_cudnn_rnn", (x, weight, hx, cx), {})
    for state in (hx, cx):
        if not state.elem.is_contiguous():
            raise RuntimeError("rnn: the initial state is not contiguous")
    WATCH.recurrent[str(x.dtype), "one piece" if weight_buf is not None else "several pieces"] += 1
    own, *weights, h, c = (plain(t).detach().float() for t in (x, *weight, hx, cx))
    made = aten.lstm.input(own, [h, c], weights, stride0 == 4, layers, dropout, train, bidirectional, batch_first)
    out, hy, cy = (StandIn(t.to(x.dtype)) for t in made)
    return out, hy, cy, StandIn(torch.empty(0, dtype=torch.uint8)), StandIn(torch.cat([w.flatten() for w in weights]))


def cudnn_lstm_backward(
    x, weight, stride0, weight_buf, hx, cx, output, dy, dhy, dcy, mode, hidden, proj, layers, *rest
):
    """Back-propagate through an LSTM of one layer and direction, step by step."""
    batch_first, _, train, bidirectional, sizes = rest[:5]
    if not train:
        raise RuntimeError("cudnn RNN backward can only be called in training mode")
    if layers != 1 or bidirectional or sizes:
        raise NotImplementedError("an LSTM of several layers or directions")
    own, w_ih, w_hh, *biases, h, c = (plain(t).detach().float() for t in (x, *weight, hx, cx))
    dy, dh, dc = (None if g is None else plain(g).float() for g in (dy, dhy, dcy))
    steps, dys = (t if t is None or not batch_first else t.transpose(0, 1) for t in (own, dy))
    h, c, kept = h[0], c[0], []
    for step in steps:
        i, f, g, o = (step @ w_ih.T + h @ w_hh.T + sum(biases)).chunk(4, 1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        new = f * c + i * g
        kept.append((step, h, c, new.tanh(), i, f, g, o))
        h, c = o * new.tanh(), new
    dh, dc = (torch.zeros_like(t) if given is None else given[0] for t, given in ((h, dh), (c, dc)))
    d_ih, d_hh, db, dxs = torch.zeros_like(w_ih), torch.zeros_like(w_hh), torch.zeros_like(w_ih[:, 0]), []
    for t in reversed(range(len(kept))):
        step, before, cell, out, i, f, g, o = kept[t]
        dh = dh if dys is None else dh + dys[t]
        dc = dc + dh * o * (1 - out**2)
        gates = [dc * g * i * (1 - i), dc * cell * f * (1 - f), dc * i * (1 - g**2), dh * out * o * (1 - o)]
        d = torch.cat(gates, 1)
        d_ih, d_hh, db = d_ih + d.T @ step, d_hh + d.T @ before, db + d.sum(0)
        dxs.append(d @ w_ih)
        dh, dc = d @ w_hh, dc * f
    dx = torch.stack(dxs[::-1], 1 if batch_first else 0)
    found = (dx, dh[None], dc[None], d_ih, d_hh, *(db for _ in biases))
    dx, dh, dc, *dw = (StandIn(g.to(x.dtype)) for g in found)
    return dx, dh, dc, dw


def run_lstm(x, hx, weights, bias, layers, dropout, train, bidirectional, batch_first):
    """What `nn.LSTM` calls; under autocast, cuDNN's LSTM takes float16, whatever type is asked for."""
    if not isinstance(x, StandIn):
        return CPU_LSTM(x, hx, weights, bias, layers, dropout, train, bidirectional, batch_first)
    flat = torch.cat([w.elem.detach().flatten() for w in weights])
    start = weights[0].elem
    one_piece = start.untyped_storage().nbytes() == flat.numel() * flat.element_size()
    given = [x, *weights, *hx]
    if torch.is_autocast_enabled("cuda"):
        given = [t.half() if t.dtype in (torch.float32, torch.bfloat16) else t for t in given]
    with torch.autocast("cuda", enabled=False):
        own, *weights, h, c = given
        buffer = StandIn(flat) if one_piece else None
        shape = (2, h.shape[2], 0, layers, batch_first, dropout, train, bidirectional)
        return aten._cudnn_rnn(own, weights, 4 if bias else 2, buffer, h, c, *shape, [], None)[:3]


CPU_LSTM = torch._VF.lstm


def flatten_weights(weights, *rest):
    """Put the weights of an LSTM into one piece of memory."""
    buffer = torch.cat([w.elem.flatten() for w in weights])
    for w, piece in zip(weights, torch.split(buffer, [w.numel() for w in weights]), strict=True):
        w.elem = piece.view(w.shape)
    return StandIn(buffer)


def cudnn_batch_norm(x, weight, bias, mean, var, training, momentum, eps):
    check_devices("cudnn_batch_norm", (x, weight, bias, mean, var), {})
    out = aten.native_batch_norm(*map(plain, (x, weight, bias, mean, var)), training, momentum, eps)
    return *map(StandIn, out), StandIn(torch.empty(0, dtype=torch.uint8))


def cudnn_batch_norm_backward(x, dy, weight, mean, var, saved_mean, saved_var, eps, reserve):
    check_devices("cudnn_batch_norm_backward", (x, dy, weight, mean, var, saved_mean, saved_var), {})
    given = map(plain, (dy, x, weight, mean, var, saved_mean, saved_var))
    return tuple(map(StandIn, aten.native_batch_norm_backward(*given, True, eps, [True, True, True])))


OWN_KERNELS = {
    aten.cudnn_batch_norm.default: cudnn_batch_norm,
    aten.cudnn_batch_norm_backward.default: cudnn_batch_norm_backward,
    aten._cudnn_rnn.default: cudnn_lstm,
    aten._cudnn_rnn_backward.default: cudnn_lstm_backward,
    aten._cudnn_rnn_flatten_weight.default: flatten_weights,
}


# --- what torch.cuda says ---------------------------------------------------------------------------------------------


def swapping(apply):
    """Let parameters stay the objects they are when a module is moved, as they do on CUDA."""

    def replaced(self, fn, recurse=True):
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return apply(self, fn, recurse)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)

    return replaced


def pinned(tensor, device=None):
    """Mark a tensor as one in page-locked memory, from which a copy need not wait."""
    tensor._pinned = True
    return tensor


class Properties:
    """The properties of the device."""

    name, total_memory, major, minor, multi_processor_count = "stand-in", 2**34, 9, 0, 132


@contextlib.contextmanager
def no_device(device=None):
    yield


def install() -> Watch:
    """Let torch believe that there is one CUDA device, in this process, from here on."""
    if REAL:
        return WATCH
    torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing, as there is no device yet
    ctypes.CDLL("libcuda.so.1").stand_in_devices(127)
    torch.autograd.set_multithreading_enabled(False)
    torch._C._set_only_lift_cpu_tensors(True)
    torch.nn.Module._apply = swapping(torch.nn.Module._apply)
    answers = {
        "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0, "memory_allocated": 0,
        "max_memory_allocated": 0, "get_device_name": "stand-in", "get_device_properties": Properties(),
        "get_device_capability": (9, 0), "is_current_stream_capturing": False, "is_bf16_supported": True,
        "synchronize": None, "empty_cache": None, "reset_peak_memory_stats": None, "set_device": None,
        "_lazy_init": None, "manual_seed_all": None,
        "_is_in_bad_fork": True,  # only `torch.manual_seed` asks, which then leaves the device alone
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    torch.cuda.device = torch.cuda.device_of = no_device
    torch.cuda.manual_seed = lambda seed: GENERATOR.manual_seed(seed) and None
    torch.cuda.get_rng_state = lambda device="cuda": GENERATOR.get_state()
    torch.cuda.set_rng_state = lambda state, device="cuda": GENERATOR.set_state(state) and None
    torch.accelerator.current_accelerator = lambda check_available=False: torch.device("cuda")
    torch.accelerator.set_device_index = lambda device: None
    Tensor.pin_memory = pinned
    torch._VF.lstm = run_lstm
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    torch.backends.cudnn.is_acceptable = lambda tensor: tensor.is_cuda and tensor.dtype in floats
    Mode().__enter__()
    return WATCH
