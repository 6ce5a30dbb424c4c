"""Tensors as formulas over parameters, as `config.json` writes them: one line for each operation."""

import torch


def evaluate(formula, parameter, weight=None):
    """The tensor that a formula describes.

    `parameter` gives the tensor of a name; `weight` is that of the layer, as a matrix, where the formula may read it.
    """

    def of(inner):
        return evaluate(inner, parameter, weight)

    def all_of(combine):
        first, *rest = [of(inner) for inner in formula["of"]]
        for other in rest:
            first = combine(first, other)
        return first

    op = formula["op"]
    if op == "parameter":
        return parameter(formula["name"])
    if op == "weight":
        return weight
    if op == "full":
        return torch.full(formula["shape"], formula["value"])
    if op == "sum":
        return all_of(torch.add)
    if op == "multiply":
        return all_of(torch.mul)
    if op == "matmul":
        return all_of(torch.matmul)
    if op == "kronecker":
        return all_of(torch.kron)
    if op == "scaled":
        return of(formula["of"]) * formula["by"]
    if op == "reshape":
        return of(formula["of"]).reshape(formula["shape"])
    if op == "permute":
        return of(formula["of"]).permute(formula["axes"])
    if op == "narrow":
        return of(formula["of"]).narrow(formula["axis"], formula["start"], formula["count"])
    if op == "cat":
        parts = [of(inner) for inner in formula["of"]]
        # A constant has no device of its own.
        device = next((part.device for part in parts if part.device.type != "cpu"), parts[0].device)
        return torch.cat([part.to(device) for part in parts], formula["axis"])
    if op == "block_diagonal":
        return torch.block_diag(*of(formula["of"]))
    if op == "cayley":
        return cayley(of(formula["of"]), formula["size"], formula["terms"])
    if op == "waves":
        return waves(of(formula["of"]), formula["shape"], formula["seed"])
    raise ValueError(f"the operation {op!r} is unknown; a newer version of peft_vision may know it")


def cayley(entries, size, terms):
    """`(I - Q) (I + Q)^-1` of skew-symmetric matrices, or the series that HF PEFT takes in its place.

    `[n, b (b - 1) / 2] -> [n, b, b]`: the entries are those above the diagonal, row by row.
    """
    rows, columns = torch.triu_indices(size, size, 1, device=entries.device)
    upper = entries.new_zeros(len(entries), size, size).index_put((torch.arange(len(entries))[:, None], rows, columns), entries)
    skew = upper - upper.mT
    identity = torch.eye(size, dtype=entries.dtype, device=entries.device)
    if terms is None:
        # X (I + Q) = I - Q, transposed.
        return torch.linalg.solve((identity + skew).mT, (identity - skew).mT).mT
    total = identity + 2 * skew
    if terms == 2:
        return total
    last = max(terms - 1, 3)
    power = skew
    for exponent in range(2, last + 1):
        power = power @ skew
        total = total + power * (1 if exponent == last else 2)
    return total


def waves(coefficients, shape, seed):
    """The inverse Fourier transform, not divided by the number of entries, of a matrix with these entries at random places."""
    rows, columns = shape
    places = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))[: len(coefficients)]
    places = places.to(coefficients.device)
    spectrum = coefficients.new_zeros(rows, columns).index_put((places // columns, places % columns), coefficients)
    return torch.fft.ifft2(spectrum, norm="forward").real
