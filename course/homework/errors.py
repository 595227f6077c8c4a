"""Read what a candidate raised, or was warned of, as its author would want it read: by cause."""

import linecache
import re
import sysconfig
import traceback
from pathlib import Path

FIT = r"Expected size for first two dimensions|The size of tensor a"

# what the error says, what stands in the line (or, as .name, in the function), what it means;
# {0} to {3} are what the first two have caught
MEANINGS: tuple[tuple[str, str, str], ...] = (
    (rf"{FIT}|t\(\) expects", r"^(?=.*(?:@|mul\(|mm\(|t\(\))).*\.[Tt](?!\w)",
     ".T turns all dimensions round, the batch and the heads, too: transpose(-2, -1) exchanges "
     "the last two and leaves the others"),
    (rf"{FIT}|Dimension out of range|batch1 must be",
     r"(?:transpose|swapaxes)\((?:\w+, )?(?!-2, ?-1|-1, ?-2)(-?\d), ?(-?\d)\)",
     "transpose({0}, {1}) counts from the front, where batch and heads stand: transpose(-2, -1) "
     "are the last two, with heads and without"),
    (r"mat1 and mat2 shapes cannot be multiplied \((\d+x\d+) and (\d+x\d+)\)", "",
     "A matrix product (n x m) @ (m x p) wants the same m on both sides, and meets {0} and {1}: is "
     "one of them to be transposed, or are they in the wrong order?"),
    (r"batch2 tensor to be: \[\d+, (\d+)\] but got: \[\d+, (\d+)\]", "",
     "A matrix product (..., n, m) @ (..., m, p) wants the same m on both sides, and meets {0} and "
     "{1}: write the two shapes down; is transpose(-2, -1) missing?"),
    (r"view size is not compatible", "",
     "view can't be used on a transposed tensor, whose numbers still lie in the old order: flatten "
     "or reshape copy them first"),
    (r"shape '(\[.*?\])' is invalid for input of size (\d+)", "",
     "The sizes {0} do not multiply to the {1} numbers that there are: leave one of them to torch, "
     "-1, and look which dimensions the tensor has"),
    (r"Implicit dimension choice|softmax\(\) (?:missing|received an invalid)", "",
     "You call softmax without dim, and torch guesses one: say along which dimension the weights "
     "sum to one, dim=-1 for the keys"),
    (r"only supports boolean masks|only supports bool masks", "",
     "masked_fill wants True and False, and your mask is made of numbers: leave it boolean (~mask "
     "turns it round), or compare, mask == 0"),
    (r"Subtraction, the `-` operator, with a bool", "",
     "1 - mask is for numbers: ~mask turns a boolean mask round"),
    (r"operator\.invert|bitwise_not.* not implemented|~.*only implemented", "",
     "~ turns booleans round, and your mask is made of numbers: leave it as it came, without "
     ".float()"),
    (r"NoneType", r"\bmask\b",
     "mask may be None: ask `if mask is not None` before you use it"),
    (r"NoneType", "",
     "Something is None here: does a function of yours forget its return?"),
    (r"Boolean value of Tensor .*ambiguous", "",
     "if, not, and, or want one yes or no, and a tensor holds many: `mask is not None` asks "
     "whether there is one; ~, & and | work on each element"),
    (r"must be a matrix|batch1 must be a 3D|1D tensors expected|vector \+ matrix", "",
     "torch.mm, bmm and dot work for one number of dimensions only: @ works for any, with batch "
     "and heads"),
    (r"transpose\(\) (?:missing|received an invalid)", "",
     "transpose wants to know which two dimensions to exchange: transpose(-2, -1), the last two"),
    (r"shape of the mask .* does not match the shape of the indexed", "",
     "x[mask] = ... wants a mask of the shape of x: masked_fill(~mask, ...) lets it broadcast"),
    (r"return_types\.(\w+)", "",
     "{0}(dim) gives two things, the numbers and their places: a{0}(dim, keepdim=True) gives the "
     "numbers alone"),
    (r"sum|keepdims|axis|out|numpy|Expected|must match|array|argument|type", r"\bnp\.(\w+)",
     "np.{0} does not know tensors: torch has its own, with dim and keepdim, and gradients flow "
     "through it"),
    (r"__array_wrap__|__array__", "",
     "You call numpy on tensors, through which no gradient flows: torch has functions of the same "
     "names"),
    (r"numpy\(\) on Tensor that requires grad", "",
     "numpy knows no gradients: stay with torch's functions"),
    (FIT, r"^(?!.*keepdim).*\.(sum|mean|amax|max|amin|min|std|var|norm)\(",
     "{0} over a dimension takes it away: with keepdim=True it stays, of size 1, and fits again"),
    (r"The size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\).* dimension (\d+)",
     "",
     "Two shapes do not fit together: in each dimension, counted from the end, they must be equal "
     "or 1, and in dimension {2} {0} meets {1}"),
    (r"only one element tensors|only integer tensors of a single|must be real number, not", "",
     "The functions of math take one number: a tensor has its own, x.exp(), x.sqrt(), and a width "
     "is query.size(-1), not query.shape"),
    (r"(\w+)\(\): argument 'input' .* must be Tensor, not (int|float)", "",
     "torch.{0} wants a tensor and gets a plain number: for those there is math, and ** 0.5"),
    (r"name '(\w+)' is not defined", "",
     "There is no {0} here: is it spelled as in the signature, is an import missing? Sizes come "
     "from the tensors: query.size(-1)"),
    (r"leaf [Vv]ariable that requires grad|view of a leaf|modified by an inplace", "",
     "You change a tensor in place that autograd still needs: make a new one, x = x + y"),
    (r"length of the desired ordering", "",
     "permute wants every dimension once: as many numbers as the tensor has dimensions"),
    (r"Dimension out of range .* but got (-?\d+)", "",
     "There is no dimension {0}, the tensor has fewer: look at its shape before this line"),
    (r"expected Tensor as element \d+ in argument 0, but got (\w+)", "",
     "torch.cat joins tensors, and meets a plain {0}: make a column of it, "
     "torch.full_like(x[:, :1], number)"),
    (r"same number of dimensions: got (\d+) and (\d+)", "",
     "torch.cat joins tensors that have equally many dimensions, and meets {0} and {1}"),
    (r"(?:failed to unpack|tuple of ints).*float|'float' object cannot be interpreted as an int",
     "", "/ always gives a float, and sizes are whole numbers: divide by //"),
    (r"values to unpack", "",
     "What you take apart has another number of parts: a shape has four with heads, three without; "
     "x.size(-1) works for both"),
    (r"not tuple\b|'tuple' object|got tuple|but got .*tuple", "",
     "A function gives you several values here, a tuple: take them apart, output, weights = ..."),
    (r"scalar type|same dtype|should be the same", "",
     "Two dtypes meet: make new tensors in that of the input, torch.zeros(..., dtype=x.dtype)"),
    (r"before Module\.__init__", "", "super().__init__() is the first line of __init__"),
    (r"'(\w+)' object has no attribute '(w_\w+)'", "",
     "There is no self.{1}: make it in __init__, after super().__init__()"),
)


def meaning(error: str, code: str = "") -> str:
    """Return what an error or a warning means for its author, "" where that is not known."""
    for says, stands, meant in MEANINGS:
        found, seen = re.search(says, error, re.S), re.search(stands, code)
        if found and seen:
            return meant.format(*found.groups(), *seen.groups())
    return ""


def explain_error(error: BaseException) -> str:
    """Say what a candidate raised, in which of its lines, and first of all what it means."""
    where = code = ""
    others = (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"],
              str(Path(__file__).parent))
    for frame, number in reversed([*traceback.walk_tb(error.__traceback__)]):
        if not frame.f_code.co_filename.startswith(others):
            line = linecache.getline(frame.f_code.co_filename, number, frame.f_globals).strip()
            where = f", in line {number}: {line}" if line else ""
            code = " ".join([line, *(f".{name}" for name in frame.f_code.co_names)])
            break
    if isinstance(error, SystemExit):
        return f"Your code leaves Python: return a value instead{where}"
    if isinstance(error, RecursionError):
        return f"Your code calls itself without end{where}"
    said = str(error).strip().split("\n")[0].rstrip(".")
    meant = meaning(said, code)
    if meant:
        meant += " " if meant.endswith("?") else ". "
    return meant + f"Your code raises {type(error).__name__}: {said}" + where
