"""The pictures as they arrive: digests that see a damaged upload, an inverted mask, the bound on pixels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest

from backend.fakes import FakeClient, fake_bundle, hole, inpaint, inputs, picture, serving
from gesso_backend.errors import InvalidRequest, RequestError
from gesso_backend.kinds.diffusion.request import Request, parse

IMAGE, MASK = picture(20, 30), hole(20, 30)


def sha256(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def accept(**values: Any) -> Request:
    return parse(inputs(**values), fake_bundle())


def refuse(**values: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        accept(**values)
    return caught.value


@pytest.mark.parametrize("name", ["image", "mask_image"])
def test_a_picture_that_was_damaged_on_the_way_is_refused(name: str) -> None:
    """python-pillow/Pillow#4848, the server's half: wrong pixels came back with `changed_outside_mask: 0`."""
    sent: dict[str, Any] = {"image": IMAGE, "mask_image": MASK}
    digests = {f"{key}_sha256": sha256(array) for key, array in sent.items()}
    assert accept(**sent, **digests).task == "inpaint"
    damaged = sent[name].copy()
    damaged.flat[7] ^= 1
    error = refuse(**{**sent, name: damaged}, **digests)
    assert error.field == name
    assert error.text.startswith(f"the {name} arrived damaged")


def test_a_digest_is_of_the_bytes_as_they_are_sent() -> None:
    """Guards flat pictures, which get their shape here, and an inverted mask: both ends mean the sender's array."""
    flat = {"image": IMAGE.reshape(1, -1, 3), "mask_image": MASK.reshape(1, -1), "height": 20, "width": 30}
    digests = {"image_sha256": sha256(IMAGE), "mask_image_sha256": sha256(MASK)}
    assert accept(**flat, **digests, mask_invert=True).task == "inpaint"


@pytest.mark.parametrize("said", ["", "0" * 63, "G" * 64, sha256(IMAGE).upper()])
def test_what_is_no_digest_is_refused_as_such(said: str) -> None:
    """Guards the words: nobody should look for a damaged picture then."""
    assert str(refuse(image=IMAGE, image_sha256=said)) == (
        "INVALID_ARG: image_sha256: is not a SHA-256 of 64 lower-case hexadecimal digits"
    )


def test_a_digest_of_nothing_is_refused() -> None:
    """Guards promise 4: what cannot be looked at is not ignored."""
    assert refuse(image_sha256=sha256(IMAGE)).text == "needs an image"
    assert refuse(image=IMAGE, mask_image_sha256=sha256(MASK)).text == "needs a mask_image"


def test_an_inverted_mask_keeps_its_white_and_repaints_its_black() -> None:
    """Guards all who paint what is to stay; the report counts what was then outside."""
    request = accept(image=IMAGE, mask_image=255 - MASK, mask_invert=True)
    np.testing.assert_array_equal(request.mask_image, MASK)
    assert accept(image=IMAGE, mask_image=MASK).mask_invert is False
    assert "is empty" in refuse(image=IMAGE, mask_image=np.full_like(MASK, 255), mask_invert=True).text
    straight, inverted = FakeClient(), FakeClient()
    with serving() as service:
        service.submit(inpaint(), straight)
        sent = inpaint(mask_invert=True)
        service.submit({**sent, "mask_image": np.invert(sent["mask_image"])}, inverted)
        np.testing.assert_array_equal(straight.images()[0], inverted.images()[0])
    assert json.loads(inverted.events[-1].report)["parameters"]["mask_invert"] is True


def test_an_empty_masks_refusal_says_what_was_found() -> None:
    """Guards masks of 0 and 1, which look black to whoever reads 'empty'."""
    assert refuse(image=IMAGE, mask_image=MASK // 255).text.endswith(
        "the highest level is 1, as of a mask of 0 and 1: 255 repaints"
    )
    assert refuse(image=IMAGE, mask_image=MASK // 3).text.endswith("the highest level is 85")


def test_the_report_says_who_counted_and_what_was_sent_back() -> None:
    """python-pillow/Pillow#4848: a count is worth as much as what was compared."""
    client = FakeClient()
    with serving() as service:
        service.submit(inpaint(), client)
        (image,) = client.images()
    report = json.loads(client.events[-1].report)
    assert (report["changed_outside_mask"], report["counted_by"]) == (0, "server")
    assert report["image_sha256"] == sha256(image)


def test_digests_are_no_part_of_what_an_answer_is_cached_by() -> None:
    """Guards the cache of whole answers: the same request with and without them is the same."""
    plain, signed = FakeClient(), FakeClient()
    sent = inpaint()
    digests = {"image_sha256": sha256(sent["image"]), "mask_image_sha256": sha256(sent["mask_image"])}
    with serving(settings={"response_cache_mib": 16}) as service:
        service.submit(sent, plain)
        assert plain.wait() is None
        service.submit({**sent, **inputs(prompt=None, **digests)}, signed)
        assert signed.wait() is None
    assert json.loads(signed.events[-1].report)["cached"] == ["response"]


def test_the_bound_on_pixels_is_the_operators() -> None:
    """A phone's 48 megapixels were sent whole, then refused; the bound was in no document. Now it is a setting."""
    client = FakeClient()
    with serving(settings={"max_image_pixels": 32 * 48 - 1}) as service:
        service.submit(inpaint(), client)
        error = client.wait()
    assert str(error) == "INVALID_ARG: image: 1536 pixels is above the maximum 1535"


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_a_float_that_is_not_finite_is_refused(value: float) -> None:
    """Guards parameters without a bound on one side, and numbers that only a float64 holds."""
    bundle = fake_bundle()
    open_ended = dataclasses.replace(bundle.parameters["guidance_scale"], minimum=None, maximum=None)
    loose = dataclasses.replace(bundle, parameters={**bundle.parameters, "guidance_scale": open_ended})
    with pytest.raises(InvalidRequest, match="guidance_scale: is not finite"):
        parse(inputs(guidance_scale=np.array([value])), loose)
