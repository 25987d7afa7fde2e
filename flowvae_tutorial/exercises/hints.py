"""What is said of an answer that stops or is none: in words that are not torch's."""

import dis
import inspect
import traceback
from collections.abc import Callable
from typing import Any

SHAPES = (
    "Two shapes do not fit there. Print the shape of each tensor: what does each of its axes "
    "count? A density that is not yet summed over the event has one more."
)
LOG_WEIGHTS = (
    "Your probabilities are negative: log-weights stand where probabilities belong. Which function "
    "makes weights of them?"
)
STEEP = (
    "Right where the numbers of a column lie close together. Where they lie 1,500 nats apart an "
    "exponential overflows: what you subtract is not the largest of the column."
)
BITS = "Your result is in bits. Nats are asked for: take natural logarithms."
KINDS = "Two tensors there hold numbers of different kinds: float32 beside float64, say."
ERRORS = {
    "Expected parameter scale": (
        "torch refuses your scale, because a standard deviation must be positive. What do you have "
        "to do to log σ first?"
    ),
    "Expected parameter probs": LOG_WEIGHTS,
    "probability tensor contains": LOG_WEIGHTS,
    "multinomial distribution": LOG_WEIGHTS,
    "without replacement": (
        "You draw components without putting them back, and there are fewer components than "
        "samples. One component may serve many samples."
    ),
    "component_distribution": (
        "A mixture of torch's takes the last batch axis for the components, and in a Normal that "
        "is left loose it counts dimensions. Independent makes one event of them."
    ),
    "can be implicitly created only for scalar": (
        "autograd takes the gradient of one number, and you gave it one for each example. Which "
        "way of joining them leaves the gradient of each as it is?"
    ),
    "does not require grad": (
        "autograd has no record of what you differentiate: the tensor must ask for a gradient "
        "before anything is computed from it."
    ),
    "Tensor that requires grad": (
        "Your result still has a gradient attached, which NumPy cannot take. Stay with torch."
    ),
    "in-place operation": (
        "You write into a tensor that keeps a record for its gradient. Make a new one: do without "
        "`+=` and without methods that end in `_`."
    ),
    "must match": SHAPES,
    "same number of dimensions": SHAPES,
    "cannot be multiplied": SHAPES,
    "broadcast": SHAPES,
    "is invalid for input of size": SHAPES,
    "expand": SHAPES,
    "Dimension out of range": "You name an axis that the tensor does not have. Print its shape.",
    "too many indices": "You index more axes than the tensor has. Print its shape.",
    "out of bounds": "You ask for a place beyond the end of an axis. Print the tensor's shape.",
    "dtype": KINDS,
    "expected scalar type": KINDS,
    "Boolean value of Tensor": "An `if` or `and` asks for one truth, and the tensor holds many.",
    "only one element": "One number is asked for there, and the tensor holds many.",
    "converted to Scalar": "One number is asked for there, and the tensor holds many.",
    "invalid combination of arguments": (
        "A function of torch's takes other arguments than these. Is one of them no tensor?"
    ),
    "'int' object is not iterable": (
        "A number stands where a sequence is wanted. `sample`, for one, takes a shape: (n,) and "
        "not n."
    ),
    "'Tensor' and 'tuple'": (
        "A tensor and a pair meet there: a function that you call returns two things. Take both, "
        "and use the one that you need."
    ),
    "torch.return_types": (
        "A function of torch's returns two things there, as `max` does: the values, and where they "
        "stand. Take the one that you need by its name."
    ),
    "torch.Size": "A shape is a row of lengths. Take the one length that you need out of it.",
    "slice indices": "A shape is a row of lengths. Take the one length that you need out of it.",
    "zero-dimensional tensor": (
        "torch.cat joins tensors along an axis, and single numbers have none. torch.stack makes "
        "one."
    ),
    "No KL(": "torch has no closed form for these two. Estimate it from samples.",
    "probabilities do not sum to 1": (
        "Your probabilities do not sum to 1, for the log-weights are not normalised. Which "
        "function makes probabilities of them?"
    ),
    "'function' object has no attribute": (
        "What you ask there is a function. Call it first: what does the text give it?"
    ),
    "were given": (
        "A function of the exercise's takes fewer things than you gave it. What does the text give "
        "it?"
    ),
    "'Independent' object has no attribute": (
        "What you ask there is a distribution of whole vectors, and has no part of that name. It "
        "has `mean`, `sample` and `log_prob`."
    ),
    "'float' object has no attribute": (
        "What you call there is a Python number, and has no methods of a tensor. The roots and "
        "logarithms of Python numbers are in math."
    ),
    "NoneType": (
        "Something there is None. Does a function return nothing, or has no gradient been computed?"
    ),
    "not have been used in the graph": (
        "You differentiate with respect to a tensor that took no part: was the objective computed "
        "from a copy of it?"
    ),
    "'tuple' and 'tuple'": (
        "Those are pairs, one entry a level, and Python does not subtract pairs. Go level by level."
    ),
    "can't multiply sequence": (
        "torch.autograd.grad returns a tuple, one gradient for each input: take the first."
    ),
    'arguments: "dim"': "You did not say along which axis: give the function its `dim`.",
    "required positional argument": (
        "A function of the exercise's takes more than you gave it. What does the text give it?"
    ),
    "'Independent' object is not callable": (
        "What you call there is a distribution already: leave out the brackets."
    ),
    "must be tuple of Tensors": "torch.stack and torch.cat take their tensors as one list.",
    "must be Tensor": "A function of torch's wants a tensor there, and got something else. The "
    "roots and logarithms of Python numbers are in math.",
}
"""What torch says of a mistake that readers make often, and the hint in its place."""


def about_error(error: Exception, answer: Callable[..., Any]) -> str:
    """What stopped the reader's function, in words that are not torch's, and where."""
    code = getattr(inspect.unwrap(answer), "__code__", None)
    own = [
        frame.line
        for frame in traceback.extract_tb(error.__traceback__)
        if code is not None and frame.filename == code.co_filename and frame.line
    ]
    where = f"Your function stopped at `{own[-1]}`" if own else "Your function stopped"
    if isinstance(error, NotImplementedError) and not error.args:  # nbgrader's stub
        return "Write your answer in place of the line that raises an error."
    said = str(error).partition("\n")[0]
    for words, hint in ERRORS.items():
        if words in said:
            return f"{where}. {hint}"
    if isinstance(error, RuntimeError | ValueError | IndexError | NotImplementedError):
        # Of torch's, most likely: its words are about its inside.
        return f"{where}, with a tensor that torch cannot use there. Print its shape and values."
    return f"{where}, with {type(error).__name__}: {said}"


EMPTY = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
"""What Python makes of a function in which nothing but dots is written."""


def about_nothing(answer: Callable[..., Any]) -> str:
    """A stub told from a function that computes something and does not return it."""
    function = inspect.unwrap(answer)
    written = hasattr(function, "__code__") and not (
        {each.opname for each in dis.get_instructions(function)} <= EMPTY
    )
    if written:
        return "Your function returns nothing. What it computes has to be handed back: return it."
    return "Write your answer in place of the dots."


def about_change(names: list[str]) -> str:
    """What is said of a function that writes into a tensor of its caller's, if it names one."""
    what = f"`{names[0]}`, which it was given" if names else "what it was given"
    return (
        f"Your function changes {what}, and the caller's numbers are gone. Make a new tensor: do "
        "without `+=` and `-=`, without writing to an index, and without methods that end in `_`."
    )


def about_shape(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """What two shapes say of the mistake that lies between them."""
    if [size for size in found if size != 1] == [size for size in wanted if size != 1]:
        return "The two differ by an axis of length 1: did you keep one, or add one?"
    if not wanted:
        return "One number is asked for: take the mean."
    if len(found) == len(wanted):
        return "What does each axis count, and where does it get its length?"
    if len(found) > len(wanted):
        return "What does each axis count? One is too many: sum over it, or do not make it."
    return "What does each axis count, and over which one do you sum?"
