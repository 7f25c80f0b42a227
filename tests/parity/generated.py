"""Golden vectors of other sizes and seeds, from formulas written out here and nothing of densebench."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

Arrays = dict[str, np.ndarray]


def blocky_masks(rng: np.random.Generator, n: int, side: int, patch: int, n_classes: int) -> np.ndarray:
    """Masks of blocks that do not meet the patches, with some void."""
    cells = rng.integers(0, n_classes, (n, -(-side * patch // 3), -(-side * patch // 3)))
    masks = cells.repeat(3, 1).repeat(3, 2)[:, : side * patch, : side * patch].astype(np.uint8)
    masks[rng.random(masks.shape) < 0.05] = 255
    return masks


def patches_of(masks: np.ndarray, patch: int) -> np.ndarray:
    """(n, side, side, patch * patch), by slicing."""
    n, side = len(masks), masks.shape[1] // patch
    out = np.empty((n, side, side, patch * patch), masks.dtype)
    for y in range(side):
        for x in range(side):
            out[:, y, x] = masks[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].reshape(n, -1)
    return out


def mean_one_hot(patches: np.ndarray, n_classes: int) -> np.ndarray:
    filled = np.where(patches == 255, 0, patches)
    return np.eye(n_classes)[filled].mean(-2).astype(np.float32)


def soft_labels(rng: np.random.Generator) -> Arrays:
    masks = blocky_masks(rng, 3, 5, 7, 9)
    patches = patches_of(masks, 7)
    filled = np.where(patches == 255, 0, patches)
    return {
        "masks": masks, "patch_size": np.array(7), "num_classes": np.array(9),
        "patchified": filled, "soft_labels": mean_one_hot(patches, 9),
    }  # fmt: skip


def patch_sampling(rng: np.random.Generator) -> Arrays:
    n, side, patch, n_classes, k = 3, 6, 5, 7, 11
    masks = blocky_masks(rng, n, side, patch, n_classes)
    touched = mean_one_hot(patches_of(masks, patch), n_classes) > 0
    scores = np.zeros((n, side, side), np.float32)
    for image in range(n):
        for c in range(n_classes):
            scores[image][touched[image, ..., c]] += touched[image, ..., c].sum()
    torch.manual_seed(77)
    noise = np.stack([torch.rand(side * side).numpy() for _ in range(n)])
    chosen = np.argsort(scores.reshape(n, -1) * noise, axis=1)[:, :k]
    features = rng.normal(size=(n, side * side, 4)).astype(np.float32)
    return {
        "masks": masks, "patch_size": np.array(patch), "num_classes": np.array(n_classes), "scores": scores,
        "nonempty": scores > 0, "K": np.array(k), "torch_seed": np.array(77), "noise": noise, "features": features,
        "sampled_features": np.stack([features[i][chosen[i]] for i in range(n)]), "sampled_indices": chosen,
    }  # fmt: skip


def ious(table: np.ndarray) -> np.ndarray:
    union = table.sum(1, keepdims=True) + table.sum(0, keepdims=True) - table
    return table / np.maximum(union, 1e-8)


def scored(table: np.ndarray, mapping: np.ndarray | None) -> tuple[Arrays, float]:
    n_classes, n_pred = table.shape
    mapping = np.arange(n_pred) if mapping is None else mapping
    tp, fp = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    for cluster, c in enumerate(mapping):
        if c < n_classes:
            tp[c] += table[c, cluster]
            fp[c] += table[:, cluster].sum() - table[c, cluster]
    fn = table.sum(1) - tp
    return {"tp": tp, "fp": fp, "fn": fn}, float((tp / np.maximum(tp + fp + fn, 1e-8)).mean())


def one_to_one(table: np.ndarray) -> np.ndarray:
    rows, columns = linear_sum_assignment(-ious(table))
    mapping = np.zeros(table.shape[1], np.int64)
    mapping[columns] = rows
    return mapping


def table_of(pred: np.ndarray, gt: np.ndarray, n_pred: int, n_gt: int, ignore: int = 255) -> np.ndarray:
    table = np.zeros((n_gt, n_pred), np.int64)
    seen = (gt != ignore) & (gt < n_gt)
    np.add.at(table, (gt[seen], pred[seen]), 1)
    return table


def retrieval(rng: np.random.Generator, raw_distance: bool = False) -> Arrays:
    """Hummingbird (or DIP) by brute force in float64; two training images are one and the same, so neighbours tie."""
    side, patch, n_classes, d, k, beta = 4, 5, 5, 11, 8, 0.05
    train_masks, val_masks = blocky_masks(rng, 6, side, patch, n_classes), blocky_masks(rng, 3, side, patch, n_classes)
    centres = rng.normal(size=(n_classes, d))
    train, val = (
        (mean_one_hot(patches_of(m, patch), n_classes).reshape(len(m), -1, n_classes) @ centres)
        + 0.3 * rng.normal(size=(len(m), side * side, d))
        for m in (train_masks, val_masks)
    )
    train[-1], train_masks[-1] = train[0], train_masks[0]
    train, val = train.astype(np.float32), val.astype(np.float32)
    keys, queries = train.reshape(-1, d).astype(np.float64), val.reshape(-1, d).astype(np.float64)
    units = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    labels = mean_one_hot(patches_of(train_masks, patch), n_classes).reshape(-1, n_classes)
    products = queries @ units.T
    near = -np.square(queries[:, None] - keys[None]).sum(-1) if raw_distance else products
    index = np.argsort(-near, axis=1)[:, :k]
    cosine = np.take_along_axis(products, index, 1) / np.linalg.norm(queries, axis=1, keepdims=True)
    weights = np.exp(cosine / beta)
    hat = ((weights / weights.sum(1, keepdims=True))[..., None] * labels[index]).sum(1).astype(np.float32)
    maps = torch.from_numpy(hat).view(3, side, side, n_classes).permute(0, 3, 1, 2)
    up = F.interpolate(maps, side * patch, mode="bilinear")
    best = up.topk(2, dim=1).values
    pred = up.argmax(1).numpy()
    table = table_of(pred, val_masks, n_classes, n_classes)
    union = table.sum(0) + table.sum(1) - table.diagonal()
    with np.errstate(invalid="ignore"):
        nan_iou = np.where(union > 0, table.diagonal() / union, np.nan)
    out = {
        "train_feats": train, "train_masks": train_masks, "val_feats": val, "val_masks": val_masks,
        "S": np.array(side), "patch_size": np.array(patch), "num_classes": np.array(n_classes), "k": np.array(k),
        "beta": np.array(beta), "nn_index": index, "label_hat": hat.reshape(3, -1, n_classes),
        "argmax": pred.astype(np.uint8), "argmax_margin_min": np.array(float((best[:, 0] - best[:, 1]).min())),
        "confusion": table,
    }  # fmt: skip
    if raw_distance:
        return out | {"iou": nan_iou.astype(np.float32), "miou_nanmean": np.array(np.nanmean(nan_iou))}
    out |= {
        "ignore_index": np.array(255), "memory_features": units.astype(np.float32), "memory_labels": labels,
        "nn_score": np.take_along_axis(products, index, 1).astype(np.float32),
        "iou_nan_identity": nan_iou, "miou_nanmean_identity": np.array(np.nanmean(nan_iou)),
    }  # fmt: skip
    for tag, mapping in ("identity", None), ("hungarian", one_to_one(table)):
        counts, miou = scored(table, mapping)
        out |= {f"{name}_{tag}": value for name, value in counts.items()} | {f"miou_{tag}": np.array(miou)}
        out[f"iou_{tag}"] = counts["tp"] / np.maximum(sum(counts.values()), 1e-8)
    return out


def matching(rng: np.random.Generator) -> Arrays:
    n_gt, n_pred, n = 6, 13, 4321
    gt = rng.integers(0, n_gt, n).astype(np.uint8)
    pred = ((2 * gt + rng.integers(0, 5, n)) % n_pred).astype(np.uint8)
    gt[rng.random(n) < 0.1] = 255
    table = table_of(pred, gt, n_pred, n_gt)
    precision = table / np.maximum(table.sum(0, keepdims=True), 1e-8)
    out = {
        "gt": gt, "pred": pred, "num_gt": np.array(n_gt), "num_pred": np.array(n_pred),
        "score_iou": ious(table), "score_prec": precision,
    }  # fmt: skip
    mappings = {
        "hungarian": one_to_one(table), "linear_probe": None,
        "m2o_iou": ious(table).argmax(0), "m2o_prec": precision.argmax(0),
    }  # fmt: skip
    for tag, mapping in mappings.items():
        counts, miou = scored(table, mapping)
        seen = pred[gt != 255]
        out |= {f"{tag}_{name}": value for name, value in counts.items()}
        out |= {f"{tag}_miou": np.array(miou), f"{tag}_reordered": seen if mapping is None else mapping[seen]}
    return out


def overclustering(rng: np.random.Generator) -> Arrays:
    n_classes, k, size = 5, 17, 30
    masks = blocky_masks(rng, 2, 12, 6, n_classes)
    clusters = rng.integers(0, k, (2, 9, 9)).astype(np.int32)
    table = np.zeros((n_classes, k), np.int64)
    for mask, cluster in zip(masks, clusters, strict=True):
        small = [np.asarray(m)[np.ix_(*[np.arange(size) * len(m) // size] * 2)] for m in (cluster, mask)]
        table += table_of(*small, k, n_classes)
    counts, miou = scored(table, (table / np.maximum(table.sum(0), 1e-8)).argmax(0))
    return {
        "gt_masks": masks, "cluster_map": clusters, "num_classes": np.array(n_classes), "K": np.array(k),
        "ignore_index": np.array(255), "eval_size": np.array(size), "miou": np.array(miou), **counts,
    }  # fmt: skip


def diffsort(rng: np.random.Generator) -> Arrays:
    """Of 6 wires, odd-even and logistic; the steepness is another one, too."""
    import diffsort as oracle

    x = rng.normal(size=(2, 6))
    out: Arrays = {"x": x, "art_lambda": np.array(0.25)}
    for steepness in (3, 25):
        net = oracle.DiffSortNet("odd_even", 6, steepness=steepness, art_lambda=0.25, distribution="logistic")
        values, matrix = net(torch.from_numpy(x))
        out |= {f"sorted_s{steepness}": values.numpy(), f"perm_s{steepness}": matrix.numpy()}
    return out


def neco_loss(rng: np.random.Generator) -> Arrays:
    """2x2 patches of three images, by diffsort: logistic, cosine; nothing of it said in the arrays."""
    import diffsort as oracle

    maps = {name: rng.normal(size=(3, 5, 2, 2)) for name in ("student", "teacher", "reference")}
    out: Arrays = maps | {
        "steepness_student": np.array(4), "steepness_teacher": np.array(9), "art_lambda": np.array(0.25),
        "roi": np.array(2), "finite": np.array(True), "finite_f32": np.array(True),
        "p_shape": np.array([3, 4, 4, 2, 2]),
    }  # fmt: skip

    def orders(side: torch.Tensor, reference: torch.Tensor, steepness: int) -> torch.Tensor:
        rows = F.normalize(side.flatten(2).mT, dim=-1), F.normalize(reference.flatten(2).mT, dim=-1)
        net = oracle.DiffSortNet("bitonic", 4, steepness=steepness, art_lambda=0.25, distribution="logistic")
        matrix = net((rows[0] @ rows[1].mT).flatten(0, 1))[1]
        return matrix.view(3, 2, 2, 4, 4).permute(0, 4, 3, 1, 2)

    for tag, dtype in (("f64", torch.float64), ("f32", torch.float32)):
        student, teacher, reference = (torch.from_numpy(m).to(dtype) for m in maps.values())
        student.requires_grad_()
        p, q = orders(student, reference, 4), orders(teacher, reference, 9)
        loss = -(q * p.log()).sum(1).mean()
        loss.backward()
        out |= {f"loss_{tag}": np.array(loss.item()), f"grad_student_{tag}": student.grad.numpy()}
        if tag == "f64":
            out |= {"p": p.detach().float().numpy(), "q": q.float().numpy(), "min_p": np.array(p.min().item())}
    return out


def cluster_probe(rng: np.random.Generator, trained_on: bool = False) -> Arrays:
    """Of 12 steps by autograd. ``trained_on`` stores the parameter after 12 more, as the published file does."""
    maps, k, steps, lr = rng.normal(size=(3, 6, 4, 5)).astype(np.float32), 4, 12, 0.01
    features = torch.from_numpy(maps)
    units = F.normalize(features.permute(0, 2, 3, 1).flatten(0, 2), dim=1)
    parameter = torch.from_numpy(rng.normal(size=(k, 6)).astype(np.float32)).requires_grad_()
    start, losses = parameter.detach().clone(), []

    def run() -> None:
        adam = torch.optim.Adam([parameter], lr=lr)
        for _ in range(steps):
            adam.zero_grad()
            loss = -(units @ F.normalize(parameter, dim=1).T).max(1).values.mean()
            loss.backward()
            losses.append((loss.item(), parameter.grad.clone()))
            adam.step()

    def assigned(centroids: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        up = F.interpolate(features, size, mode="bilinear")
        products = torch.einsum("bdhw,kd->bkhw", F.normalize(up, dim=1), F.normalize(centroids.detach(), dim=1))
        return products.argmax(1).numpy()

    run()
    upsampled = assigned(parameter, (13, 17))
    trace, first_gradient = [loss for loss, _ in losses], losses[0][1]
    if trained_on:
        run()
    after = parameter.detach().numpy()
    return {
        "features": maps, "centroids": after if trained_on else start.numpy(), "loss": np.array(trace[0]),
        "assignment": assigned(start, (4, 5)), "grad": first_gradient.numpy(), "adam_lr": np.array(lr),
        f"loss_trace_{steps}_steps": np.array(trace), f"centroids_after_{steps}_steps": after,
        "upsampled_size": np.array([13, 17]), "upsampled_assignment": upsampled,
    }  # fmt: skip


def kernel_losses(rng: np.random.Generator) -> Arrays:
    n, d, sigma = 7, 4, 1.7
    s, t = torch.from_numpy(rng.normal(size=(3, n, d))).requires_grad_(), torch.from_numpy(rng.normal(size=(3, n, d)))
    centring = torch.eye(n, dtype=torch.float64) - 1 / n

    def centred(x: torch.Tensor) -> torch.Tensor:
        return centring @ (x @ x.mT) @ centring

    def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).sum((1, 2))

    def mmd(kernel) -> torch.Tensor:
        return (kernel(s, s) + kernel(t, t) - 2 * kernel(s, t)).mean((1, 2))

    us, ut = s / s.norm(dim=2, keepdim=True), t / t.norm(dim=2, keepdim=True)
    cs, ct = centred(s), centred(t)
    losses = {
        "cka_loss": 1 - inner(cs, ct) / (inner(cs, cs) * inner(ct, ct)).sqrt(),
        "gram_loss": (s @ s.mT - t @ t.mT).square().sum((1, 2)),
        "gram_loss_cosine_mean": (us @ us.mT - ut @ ut.mT).square().mean((1, 2)),
        "hsic_loss": -inner(cs, ct) / (n - 1) ** 2,
        "hsic_loss_cosine": -inner(centred(us), centred(ut)) / (n - 1) ** 2,
        "mmd_linear": (s.mean(1) - t.mean(1)).square().sum(1),
        "mmd_rbf": mmd(lambda a, b: (-(a[:, :, None] - b[:, None]).square().sum(-1) / (2 * sigma**2)).exp()),
        "mmd_poly2": mmd(lambda a, b: (a @ b.mT / d).square()),
    }
    out = {"student": s.detach().numpy(), "teacher": t.numpy(), "rbf_sigma": np.array(sigma)}
    for name, loss in losses.items():
        gradient = torch.autograd.grad(loss.sum(), s, retain_graph=True)[0]
        out |= {name: loss.detach().numpy(), f"{name}_grad": gradient.numpy()}
    return out


def information(joint: np.ndarray) -> np.ndarray:
    joint = joint / joint.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return np.where(joint > 0, joint * np.log(np.where(joint > 0, joint, 1) / np.where(joint > 0, product, 1)), 0)


def positions(rng: np.random.Generator) -> Arrays:
    n, height, width, n_classes = 5, 3, 4, 6
    labels = rng.integers(-1, n_classes, (n, height, width)).astype(np.int32)
    counts = np.zeros((height * width, n_classes), np.int32)
    for image in labels.reshape(n, -1):
        for place, label in enumerate(image):
            if label >= 0:
                counts[place, label] += 1
    classwise = information(counts).sum(0)
    share = counts.sum(0) / counts.sum()
    entropy = -(share * np.log(share)).sum()
    palette = rng.integers(0, 256, (n_classes, 3)).astype(np.uint8)
    picture = (counts / counts.sum(1, keepdims=True)) @ palette.astype(float)
    return {
        "labels": labels, "num_classes": np.array(n_classes), "counts": counts, "classwise_mi": classwise,
        "mi": np.array(classwise.sum()), "entropy": np.array(entropy), "nmi": np.array(classwise.sum() / entropy),
        "palette": palette, "aggregate_map": picture.reshape(height, width, 3),
    }  # fmt: skip


def locality(rng: np.random.Generator) -> Arrays:
    attention = rng.dirichlet(np.ones(7), (4, 7))
    return {
        "attention": attention,
        "mi_head_averaged": np.array(information(attention.mean(0)).sum()),
        "mi_per_head": np.array([information(head).sum() for head in attention]),
    }


def schedule(rng: np.random.Generator) -> Arrays:
    base, final, steps = rng.random(2), rng.random(2), 3 * 7
    values = [
        [f + 0.5 * (b - f) * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]
        for b, f in zip(base, final, strict=True)
    ]
    return {
        "base": base, "final": final, "epochs": np.array(3), "niter_per_ep": np.array(7), "values": np.array(values),
    }  # fmt: skip


def resizing(rng: np.random.Generator) -> Arrays:
    clusters, maps = torch.from_numpy(rng.integers(0, 9, (3, 1, 14, 14))), torch.from_numpy(rng.random((2, 2, 14, 14)))
    return {
        "cluster_map": clusters.int().numpy(),
        "cluster_map_40": F.interpolate(clusters.double(), 40, mode="nearest").int().numpy(),
        "nearest_index_224_to_64": np.arange(64) * 224 // 64,
        "nearest_index_grid_to_28": np.arange(28) // 2,
        "feature_map": maps.float().numpy(),
        "feature_map_bilinear_40": F.interpolate(maps, 40, mode="bilinear").float().numpy(),
    }


def depth_errors(rng: np.random.Generator) -> Arrays:
    gt = rng.uniform(0.5, 9, 321)
    pred = gt * np.exp(0.3 * rng.normal(size=321))
    ratio, log = np.maximum(pred / gt, gt / pred), np.log(pred) - np.log(gt)
    values = {
        "rmse": np.sqrt(np.mean((pred - gt) ** 2)), "a1": np.mean(ratio < 1.25), "a2": np.mean(ratio < 1.25**2),
        "a3": np.mean(ratio < 1.25**3), "abs_rel": np.mean(np.abs(pred - gt) / gt),
        "log_10": np.mean(np.abs(log)) / np.log(10), "rmse_log": np.sqrt(np.mean(log**2)),
        "silog": 100 * np.std(log), "sq_rel": np.mean((pred - gt) ** 2 / gt),
    }  # fmt: skip
    return {"gt": gt, "pred": pred, "metric_names": np.array(list(values)), "values": np.array(list(values.values()))}


def foreground(rng: np.random.Generator) -> Arrays:
    gt = rng.choice([0, 0, 1, 4, 255], (4, 1, 9, 13)).astype(np.uint8)
    pred = (rng.random(gt.shape) < 0.4).astype(np.uint8)

    def jaccard(target: np.ndarray) -> float:
        pairs = zip(pred.astype(bool), target, strict=True)
        return float(np.mean([(p & t).sum() / (p | t).sum() for p, t in pairs]))

    return {
        "gt": gt, "pred": pred, "with_boundary": np.array(jaccard(gt != 0)),
        "without_boundary": np.array(jaccard((gt != 0) & (gt != 255))),
    }  # fmt: skip


MAKERS = {
    "in-context retrieval": retrieval,
    "DIP retrieval of labels": lambda rng: retrieval(rng, raw_distance=True),
    "soft labels": soft_labels,
    "patch sampling": patch_sampling,
    "matching (Leopart)": matching,
    "overclustering score": overclustering,
    "soft sorting": diffsort,
    "NeCo loss": neco_loss,
    "kernel losses": kernel_losses,
    "position information": positions,
    "locality of attention": locality,
    "cosine k-means": cluster_probe,
    "cosine schedule": schedule,
    "resizing": resizing,
    "depth errors": depth_errors,
    "foreground IoU": foreground,
}
"""By the title of the kind."""
