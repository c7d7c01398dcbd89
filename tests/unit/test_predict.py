"""Predictions are the network's own answers, whatever way its pictures come and in whatever company."""

import dataclasses
import functools
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import expressnet_jax
from data_pipelines.common.errors import DataError
from data_pipelines.faces import crop, detectors
from data_pipelines.synthetic import draw, sample_factors
from expressnet_jax.checkpoint import digests
from expressnet_jax.config import files as config_files
from expressnet_jax.config import to_dict
from expressnet_jax.export import artifact as artifacts
from expressnet_jax.models import canonical, expressnet, preprocess
from expressnet_jax.predict import inputs as predict_inputs
from expressnet_jax.predict import recognizer as predict
from tests.conftest import TINY

SIDE = 32  # of the tiny network's pictures
#: Folding BatchNorm and another batch size round differently.
same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
FRONTAL = [
    i for i in range(60)
    if abs(sample_factors(3, i).yaw) < 8 and sample_factors(3, i).covering == "none"
]  # fmt: skip


@functools.cache
def network(config):
    """A network that tells the pictures of these tests apart, with statistics that are none of those it starts with."""
    graph, state = nnx.split(expressnet.create(config, 1))
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda value: value + jnp.asarray(0.05 * rng.standard_normal(value.shape), value.dtype), state)
    inputs = preprocess.preprocess(jnp.asarray(pictures(40)), SIDE, config.preprocess)
    logits = jax.jit(lambda state, inputs: nnx.merge(graph, state)(inputs).logits)(state, inputs)
    model, factor = nnx.merge(graph, state), 1 / logits.std(0)
    model.head.kernel[...] *= factor
    model.head.bias[...] = (model.head.bias[...] - logits.mean(0)) * factor
    return nnx.split(model)


def write_artifact(folder, config, **more):
    """An artifact without graphs, as `expressnet export` writes it."""
    weights = canonical.to_canonical(nnx.merge(*network(config)))
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.write_weights(folder / artifacts.WEIGHTS, weights, "float32", artifacts.about_weights(config))
    meta = {
        "format": 1, "config": to_dict(config), "classes": list(config.data.classes), "step": 8, "weights": "raw",
        "preprocessing": artifacts.preprocessing(config), "dtype": "float32", "digest": canonical.digest(weights),
        "run": {}, "faces": "", "files": {artifacts.WEIGHTS: digests.sha256(folder / artifacts.WEIGHTS)},
        "made_with": {}, **more,
    }  # fmt: skip
    (folder / artifacts.CONFIG).write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="session")
def config():
    return config_files.load(TINY, [("preprocess.normalize", "standard"), ("preprocess.mean", "0.5")])


@pytest.fixture(scope="session")
def artifact(tmp_path_factory, config):
    return write_artifact(tmp_path_factory.mktemp("artifact"), config)


@pytest.fixture(scope="session")
def model(artifact):
    return predict.load(artifact, batch_size=16)


@pytest.fixture(scope="session")
def own(config):
    """The network's own answer to one uint8 picture of any size, as training prepares it: one by one, as it is."""
    graph, state = network(config)
    answer = jax.jit(lambda images: jax.nn.softmax(nnx.merge(graph, state)(images).logits)[0])
    return lambda image: answer(preprocess.preprocess(jnp.asarray(image)[None], SIDE, config.preprocess))


def pictures(count, side=SIDE, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in coarse]


def rows(results):
    """(n, classes), one for each face."""
    assert not any(result.error for result in results)
    return np.array([list(face.probabilities.values()) for result in results for face in result.faces])


def test_answers_are_the_networks_own_in_any_company(model, own, config):
    images = pictures(40)
    expected = np.array([own(image) for image in images])
    assert len(set(expected.argmax(1))) > 2 and expected.max(1).mean() < 0.9  # or the test would say little
    results = model.predict(images)
    same(rows(results), expected)
    same(rows(model.predict(images[::-1])), expected[::-1])
    same(rows(model.predict(images[:3])), expected[:3])
    alone = [model.predict(image) for image in images[:5]]
    same([rows(one)[0] for one in alone], expected[:5])
    for result, row in zip(results, expected, strict=True):
        (face,) = result.faces
        assert list(face.probabilities) == list(config.data.classes)
        assert face.label == config.data.classes[row.argmax()] and face.box is None and face.score is None
        assert result.path == "" and result.time is None


def test_experts_are_those_that_the_router_chose(model, config):
    images = pictures(20)
    inputs, (graph, state) = preprocess.preprocess(jnp.asarray(images), SIDE, config.preprocess), network(config)
    routing = jax.jit(lambda inputs: nnx.merge(graph, state)(inputs).routing)(inputs)
    results = model.predict(images)
    for layer in ("moe_cnn", "moe_expression"):
        chosen = [result.faces[0].experts[layer] for result in results]
        assert np.array_equal(chosen, routing[layer].chosen) and len(np.unique(chosen)) > 1


def test_mirrored_answers_are_means_with_those_of_the_mirror_image(artifact, own):
    images = pictures(20)
    mirrored = predict.load(artifact, batch_size=16, mirrored=True)
    expected = np.array([(own(image) + own(image[:, ::-1])) / 2 for image in images])
    assert np.abs(expected - [own(image) for image in images]).max() > 0.05
    same(rows(mirrored.predict(images)), expected)


def test_sizes_are_mixed_as_the_device_would_resize_them(model, own):
    sizes = [SIDE, 48, 48, 7, 224, SIDE, 1, 100, 333] * 3
    images = [pictures(1, side, seed)[0] for seed, side in enumerate(sizes)]
    images[1], images[7] = images[1][:, :30], images[7][:41]  # not square: stretched
    expected = [own(image) for image in images]
    np.testing.assert_allclose(rows(model.predict(images)), expected, atol=1e-5)


def test_paths_arrays_and_pil_images_are_answered_alike(model, tmp_path):
    images = pictures(6, 50)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    files = [tmp_path / f"{number}.png" for number in range(6)]
    expected = rows(model.predict(images))
    for given in (files, list(map(str, files)), list(map(Image.open, files)), np.stack(images), tmp_path):
        same(rows(model.predict(given)), expected)
    mixed = model.predict([files[0], images[1], Image.open(files[2])])
    same(rows(mixed), expected[:3])
    assert [result.path for result in mixed] == [str(files[0]), "", ""]


def test_where_the_stored_size_is_known_pictures_are_prepared_as_training_pictures_were(tmp_path, config, own):
    model = predict.load(write_artifact(tmp_path, config, stored=[48, 40, 1]), batch_size=4)
    large = pictures(5, 200)
    as_stored = [
        np.asarray(Image.fromarray(image).resize((40, 48), Image.Resampling.BILINEAR).convert("L")) for image in large
    ]
    expected = [own(np.stack([image] * 3, -1)) for image in as_stored]
    same(rows(model.predict(large)), expected)
    same(rows(model.predict(as_stored)), expected)


@pytest.mark.parametrize("stored", [["a", 1, 1], [10**6, 48, 3]])
def test_a_stored_size_that_makes_no_sense_is_not_used(tmp_path, config, artifact, stored):
    model = predict.load(write_artifact(tmp_path, config, stored=stored))
    image = pictures(1, 48)
    same(rows(model.predict(image)), rows(predict.load(artifact).predict(image)))


def photograph(numbers, columns, scale=1):
    """Drawn faces of 96 pixels in a grid of squares of 160; everything `scale` times as large."""
    lines = -(-len(numbers) // columns)
    whole = np.full((160 * lines * scale, 160 * columns * scale, 3), 128, np.uint8)
    for place, number in enumerate(numbers):
        y, x = (160 * n * scale + 32 * scale for n in divmod(place, columns))
        face = draw(dataclasses.replace(sample_factors(3, number), roll=0.0), 96 * scale)
        whole[y : y + 96 * scale, x : x + 96 * scale] = face
    return whole


@pytest.fixture(scope="module")
def with_faces(artifact):
    return predict.load(artifact, faces="haar", batch_size=16)


def test_each_face_is_cut_out_as_data_preparation_does(with_faces, own):
    image = photograph(FRONTAL[:4], 2)
    (result,) = with_faces.predict(image)
    found = detectors.create("haar").detect(image)
    assert len(result.faces) == len(found) >= 3
    same(rows([result]), [own(crop.crop(image, face, SIDE)) for face in found])
    for prediction, face in zip(result.faces, found, strict=True):
        assert prediction.score == pytest.approx(face.score, abs=1e-4)
        np.testing.assert_allclose(prediction.box, face.box, atol=1)


def test_fifty_faces_and_none(with_faces):
    crowd, nobody = photograph((FRONTAL * 10)[:50], 7), np.full((300, 300, 3), 90, np.uint8)
    results = with_faces.predict([nobody, crowd, nobody])
    assert [result.error for result in results] == ["no face found", "", "no face found"]
    assert len(results[1].faces) > 2 * 16  # more than two batches
    places = {(face.box[0] // 160, face.box[1] // 160) for face in results[1].faces}
    assert len(places) > 2 * 16


def test_boxes_are_in_pixels_of_the_upright_picture(with_faces, tmp_path):
    image = Image.fromarray(photograph(FRONTAL[:2], 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    large = Image.fromarray(photograph(FRONTAL[:2], 2, scale=8))  # 2560 wide: decoded at a half
    large.save(tmp_path / "large.jpg", quality=95)
    upright, turned, scaled = with_faces.predict([image, tmp_path / "turned.png", tmp_path / "large.jpg"])
    boxes = np.array(sorted(face.box for face in upright.faces))
    assert len(boxes) == 2
    assert [face.box for face in turned.faces] == [face.box for face in upright.faces]
    np.testing.assert_allclose(sorted(face.box for face in scaled.faces), 8 * boxes, atol=60)


def test_faces_are_cut_out_as_for_training_unless_told_otherwise(tmp_path, config, with_faces, own):
    image = photograph(FRONTAL[:2], 2)
    trained = write_artifact(tmp_path / "haar", config, faces="haar, eyes level, 40 px")
    (result,) = predict.load(trained).predict(image)
    found = detectors.create("haar").detect(image)
    np.testing.assert_allclose(rows([result]), [own(crop.align(image, face, 40)) for face in found], atol=1e-5)
    (whole,) = predict.load(trained, faces="none").predict(image)
    assert len(whole.faces) == 1 and whole.faces[0].box is None


@pytest.mark.parametrize("faces", ["yunet, published margins, 40 px", "somebody's own", "haar, 40"])
def test_a_detector_of_the_training_that_cannot_be_had_is_a_warning(tmp_path, config, faces):
    trained = write_artifact(tmp_path, config, faces=faces)
    with pytest.warns(UserWarning, match="trained on faces cut out by") as said:
        model = expressnet_jax.load(trained)
    assert "\n" not in str(said[0].message) and said[0].filename == __file__
    assert len(model.predict(pictures(1))[0].faces) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict.load(trained, faces="none")


def test_a_detector_that_was_asked_for_must_be_there(artifact):
    for wrong in (
        {"faces": "eagle"},
        {"faces": "yunet"},
        {"faces_model": "x.onnx"},
        {"faces": "none", "faces_model": "x"},
    ):
        with pytest.raises(DataError):
            predict.load(artifact, **wrong)


def test_a_detector_that_fails_costs_one_picture(artifact, monkeypatch):
    class Moody:
        def detect(self, rgb):
            if rgb.max() == 0:
                raise RuntimeError("too\ndark")
            return [detectors.Face((2.4, 3.0, 9.0, 90.0), 0.5, None)]

    monkeypatch.setattr(detectors, "create", lambda *_: Moody())
    model = predict.load(artifact, faces="haar")
    results = model.predict([np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 9, np.uint8)])
    assert "too dark" in results[0].error and not results[0].faces
    assert results[1].faces[0].box == (2, 3, 9, 17)  # it does not leave the picture


def test_only_a_few_batches_are_ever_held(model):
    taken = 0

    def source():
        nonlocal taken
        for image in pictures(50) * 40:
            taken += 1
            yield image

    most = answered = 0
    for result in model.stream(source()):
        most, answered = max(most, taken - answered), answered + 1
        assert len(result.faces) == 1
    assert answered == taken == 2000 and most < 8 * model.batch_size


def test_pictures_without_an_answer_do_not_pile_up_behind_one_with(model, tmp_path):
    (tmp_path / "no.jpg").write_text("no picture")
    taken = answered = most = 0

    def source():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield pictures(1)[0] if number % 500 == 0 else tmp_path / "no.jpg"

    for result in model.stream(source()):
        most, answered = max(most, taken - answered), answered + 1
        assert bool(result.error) == (answered % 500 != 1)
    assert answered == 1000 and most < 16 * model.batch_size


def test_a_cameras_frames_are_answered_at_once(model):
    taken = 0

    def camera():
        nonlocal taken
        for image in pictures(5):
            taken += 1
            yield dataclasses.replace(predict_inputs.of_image(image), live=True, time=float(taken))

    for number, (_, result) in enumerate(model.answers(camera()), start=1):
        assert taken == number == result.time and result.faces


def test_the_stream_can_be_left_early_and_the_source_may_fail(model):
    stream = model.stream(iter(pictures(100)))
    assert next(stream).faces
    stream.close()

    def failing():
        yield from pictures(3)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(model.stream(failing()))


def test_what_is_no_picture_at_all_is_refused(model, artifact, tmp_path):
    for wrong in ([np.zeros((4, 4), np.float32)], [None], [b"x"], [[pictures(1)[0]]]):
        with pytest.raises(predict.PredictError):
            model.predict(wrong)
    with pytest.raises(predict.PredictError, match="a NoneType is no picture"):  # as cv2.imread gives for no file
        model.predict(None)
    assert model.predict([]) == []
    with pytest.raises(predict.PredictError, match="batch of 0"):
        predict.load(artifact, batch_size=0)
    with pytest.raises(predict.PredictError, match="every 0"):
        list(model.stream([], every=0))
    with pytest.raises(artifacts.ArtifactError):
        predict.load(tmp_path)


def test_the_backbone_network_has_no_experts(tmp_path):
    config = config_files.load(TINY, [("model.network", "backbone")])
    model = predict.load(write_artifact(tmp_path, config))
    (result,) = model.predict(pictures(1))
    assert result.faces[0].experts == {} and sum(result.faces[0].probabilities.values()) == pytest.approx(1)
