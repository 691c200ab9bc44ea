"""maskfeat in other annotation tools, each by the tool's own SDK as far as it is installed."""

from __future__ import annotations

import base64
import importlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon2mask
from starlette.testclient import TestClient

from maskfeat.data.synth.scene import draw_scene
from maskfeat.integrations import nuclio, x_anylabeling
from maskfeat.integrations.prompted_image import Click, PromptedImage, PromptedImages
from maskfeat.interactive.segmenter import InteractiveSegmenter

SIZE = (60, 80)


@pytest.fixture(scope="module")
def rgb():
    """A light square, rows 10 to 39 and columns 20 to 49, on dark."""
    pixels = np.full((*SIZE, 3), 30, np.uint8)
    pixels[10:40, 20:50] = (200, 180, 60)
    pixels[50:58, 60:78] = (200, 180, 60)
    return pixels


@pytest.fixture(scope="module")
def square():
    mask = np.zeros(SIZE, bool)
    mask[10:40, 20:50] = True
    return mask


@pytest.fixture(scope="module")
def png(rgb):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "png")
    return file.getvalue()


def iou(one, other) -> float:
    return (one & other).sum() / (one | other).sum()


class TestPromptedImage:
    """The order of clicks, and what is kept."""

    @pytest.fixture
    def image(self, rgb):
        return PromptedImage("lab", rgb)

    def test_clicks_give_the_same_mask_as_one_by_one_on_the_page(self, image, rgb) -> None:
        clicks = [Click(30.5, 20.2, True), Click(5, 5, False), Click(65, 55, True)]
        segmenter = InteractiveSegmenter("lab")
        segmenter.set_image(rgb)
        for count, click in enumerate(clicks, 1):
            expected = segmenter.click(int(click.y), int(click.x), click.is_positive)
            np.testing.assert_array_equal(image.mask(clicks[:count]), expected)

    def test_known_clicks_keep_their_order(self, image) -> None:
        first, second, third = Click(30, 20, True), Click(5, 5, False), Click(65, 55, True)
        image.mask([first, second])
        mask = image.mask([first, third, second])  # all of the object first, as CVAT sends them
        image.mask([first])
        np.testing.assert_array_equal(image.mask([first, second, third]), mask)

    def test_clicks_that_are_taken_back_are_forgotten(self, image) -> None:
        first, second = Click(30, 20, True), Click(65, 55, True)
        before = image.mask([first])
        image.mask([first, second])
        np.testing.assert_array_equal(image.mask([first]), before)

    def test_clicks_correct_the_mask_of_a_box(self, image, rgb) -> None:
        box = (18, 8, 79, 59)
        segmenter = InteractiveSegmenter("lab")
        segmenter.set_image(rgb)
        whole = image.mask([], box)
        expected = segmenter.predict((), (), box_yxyx=(8, 18, 59, 79))
        np.testing.assert_array_equal(whole, expected)
        corrected = image.mask([Click(65, 55, not whole[55, 65])], box)
        assert corrected[55, 65] != whole[55, 65]

    def test_without_an_object_there_is_no_mask(self, image) -> None:
        assert image.mask([]) is None
        assert image.mask([Click(5, 5, False)]) is None

    def test_a_background_click_may_come_first(self, image, square) -> None:
        mask = image.mask([Click(5, 5, False), Click(30, 20, True)])
        assert iou(mask, square) == 1
        assert not mask[5, 5]

    def test_clicks_on_the_edge_are_in_the_image(self, image) -> None:
        assert image.mask([Click(80.0, 60.0, True)])[59, 79]

    def test_a_contradiction_is_refused_and_loses_nothing(self, image, square) -> None:
        image.mask([Click(30, 20, True)])
        with pytest.raises(ValueError, match="background and as object"):
            image.mask([Click(30, 20, True), Click(30.2, 20.2, False)])
        assert iou(image.mask([Click(30, 20, True)]), square) == 1

    @pytest.mark.parametrize("box", [(200, 200, 210, 210), (20, 8, 20, 42), (0, 0, np.inf, 9)])
    def test_a_box_that_is_refused_loses_no_click(self, image, box) -> None:
        clicks = [Click(30, 20, True), Click(5, 5, False), Click(65, 55, True)]
        image.mask(clicks[:2])
        with pytest.raises(ValueError, match="box"):
            image.mask(clicks[:2], box)
        mask = image.mask(clicks)
        assert [bool(mask[int(c.y), int(c.x)]) for c in clicks] == [True, False, True]

    def test_few_images_are_kept(self, rgb) -> None:
        images, reads = PromptedImages("lab"), []

        def read():
            reads.append(1)
            return rgb

        for key in ("a", "a", "b", "c", "d", "e", "a"):
            images.get(key, read)
        assert len(reads) == 6


class TestCvat:
    """The worker of CVAT's own agent, and the requests of its lambda manager."""

    def test_the_agent_runs_it(self, rgb, square) -> None:
        pytest.importorskip("cvat_cli", reason="pip install cvat-cli")
        from cvat_cli._internal import agent_driver_interaction as agent
        from cvat_cli._internal.common import FunctionLoader
        from cvat_sdk.masks import decode_mask

        loader = FunctionLoader("maskfeat.integrations.cvat", None, {"model": "lab"})
        function = loader.load()
        fields = agent.AgentInteractionFunctionDriver.get_remote_function_fields(function.spec)
        assert fields == {
            "min_pos_points": 0,
            "min_neg_points": 0,
            "startswith_box_optional": True,
        }
        context = agent._InteractionFunctionContextImpl()
        prepared = function.preprocess_image(context, Image.fromarray(rgb))

        def shapes(**prompts):
            none = {"pos_points": (), "neg_points": (), "bounding_box": None}
            given = agent._InteractionPromptsImpl(**{**none, **prompts})
            return function.detect(context, prepared, given)

        (shape,) = shapes(pos_points=((30.0, 20.0),), neg_points=((5.0, 5.0),))
        assert shape.type == "mask"
        mask = decode_mask(shape.points, image_width=80, image_height=60)
        np.testing.assert_array_equal(mask, square)
        (boxed,) = shapes(bounding_box=((18.0, 8.0), (52.0, 42.0)))
        mask = decode_mask(boxed.points, image_width=80, image_height=60)
        assert iou(mask, square) > 0.9
        assert shapes(neg_points=((5.0, 5.0),)) == []

    @pytest.fixture
    def call(self, monkeypatch):
        """Call the function as Nuclio does."""
        monkeypatch.setenv("MASKFEAT_MODEL", "lab")
        log = SimpleNamespace(info=lambda text: None)
        context = SimpleNamespace(user_data=SimpleNamespace(), logger=log)
        context.Response = lambda **settings: SimpleNamespace(**settings)
        nuclio.init_context(context)

        def call(body):
            response = nuclio.handler(context, SimpleNamespace(body=body))
            return response.status_code, json.loads(response.body)

        return call

    def test_a_serverless_request(self, call, png, square) -> None:
        image = base64.b64encode(png).decode()
        status, answer = call({"image": image, "pos_points": [[30, 20]], "neg_points": []})
        assert status == 200
        np.testing.assert_array_equal(np.array(answer["mask"]) == 255, square)
        outline = np.array(answer["points"])[:, ::-1] - 0.5
        np.testing.assert_array_equal(polygon2mask(SIZE, outline), square)
        box = [[18, 8], [52, 42]]
        status, answer = call({"image": image, "pos_points": [], "obj_bbox": box})
        assert iou(np.array(answer["mask"]) == 255, square) > 0.9

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({}, "has no 'image'"),
            ({"image": "AAAA", "pos_points": [[1, 1]]}, "cannot be read"),
            ({"image": None, "pos_points": []}, "answered"),
        ],
    )
    def test_a_bad_request_gets_a_sentence(self, call, body, expected) -> None:
        status, answer = call(body)
        assert status == 400
        assert expected in answer["error"]

    def test_the_function_file_names_what_is_there(self, repository) -> None:
        import yaml

        content = yaml.safe_load((repository / "examples/cvat/function.yaml").read_text())
        assert content["metadata"]["annotations"]["type"] == "interactor"
        assert content["spec"]["handler"] == "main:handler"
        main = (repository / "examples/cvat/main.py").read_text()
        assert "maskfeat.integrations.nuclio import handler, init_context" in main


class TestXAnyLabeling:
    """The requests that X-AnyLabeling's client makes."""

    @pytest.fixture
    def tool(self):
        app = x_anylabeling.create_app(PromptedImages("lab"), "secret")
        return TestClient(app, headers={"Token": "secret"})

    @pytest.fixture
    def predict(self, tool, png):
        self.data = f"data:image/png;base64,{base64.b64encode(png).decode()}"

        def predict(model, **params):
            body = {"model": model, "image": self.data, "params": params}
            return tool.post("/v1/predict", json=body).json()

        return predict

    def test_the_models_are_listed(self, tool) -> None:
        assert tool.get("/health").json()["status"] == "healthy"
        listed = tool.get("/v1/models").json()["data"]
        assert set(listed) == {"maskfeat_clicks", "maskfeat_segments"}
        info = tool.get("/v1/models/maskfeat_clicks/info").json()["data"]
        assert info["model_id"] == "maskfeat_clicks"
        assert tool.get("/v1/models/sam/info").json()["error"]["code"] == "MODEL_NOT_FOUND"

    def test_points_give_a_polygon(self, predict, square) -> None:
        marks = [{"type": "point", "data": [30, 20], "label": 1}]
        marks.append({"type": "point", "data": [5, 5], "label": 0})
        (shape,) = predict("maskfeat_clicks", marks=marks)["data"]["shapes"]
        assert shape["label"] == "AUTOLABEL_OBJECT"
        outline = np.array(shape["points"])[:, ::-1] - 0.5
        np.testing.assert_array_equal(polygon2mask(SIZE, outline), square)

    def test_a_rectangle_is_a_box(self, predict, square) -> None:
        marks = [{"type": "rectangle", "data": [18, 8, 52, 42], "label": 1}]
        (shape,) = predict("maskfeat_clicks", marks=marks)["data"]["shapes"]
        outline = np.array(shape["points"])[:, ::-1] - 0.5
        assert iou(polygon2mask(SIZE, outline), square) > 0.9

    def test_a_run_gives_segments_that_cover_the_image(self, predict) -> None:
        shapes = predict("maskfeat_segments", conf_threshold=0.5)["data"]["shapes"]
        covered = np.zeros(SIZE, int)
        for shape in shapes:
            covered += polygon2mask(SIZE, np.array(shape["points"])[:, ::-1] - 0.5)
        assert covered.min() == covered.max() == 1

    def test_no_prompt_gives_no_shape(self, predict) -> None:
        assert predict("maskfeat_clicks")["data"]["shapes"] == []

    def test_bad_requests_get_a_code_and_a_sentence(self, tool, predict) -> None:
        body = {"model": "maskfeat_clicks", "image": "data:image/png;base64,AAAA"}
        error = tool.post("/v1/predict", json=body).json()["error"]
        assert error["code"] == "INVALID_IMAGE"
        error = predict("maskfeat_clicks", marks=[{"type": "point", "data": [1]}])["error"]
        assert (error["code"], "marks must be" in error["message"]) == ("INFERENCE_ERROR", True)
        for params in ({"marks": 5}, {"marks": [{"type": "point", "data": [np.inf, 1]}]}):
            body = json.dumps({"model": "maskfeat_clicks", "image": self.data, "params": params})
            answer = tool.post(
                "/v1/predict", content=body, headers={"Content-Type": "application/json"}
            ).json()
            assert answer["error"]["code"] == "INFERENCE_ERROR"
        refused = tool.get("/v1/models", headers={"Token": "guess"}).json()
        assert refused["error"]["code"] == "UNAUTHORIZED"

    def test_web_pages_are_refused(self, tool) -> None:
        answer = tool.get("/health", headers={"Origin": "http://evil.example"})
        assert answer.status_code == 403
        assert tool.get("/health", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 403


CONFIG = """<View>
  <Image name="image" value="$photo"/>
  <{control} name="mask" toName="image"><Label value="thing"/></{control}>
  <KeyPointLabels name="click" toName="image" smart="true"><Label value="thing"/></KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="thing"/></RectangleLabels>
</View>"""


class TestLabelStudio:
    """Requests of Label Studio; answers are checked by its own SDK."""

    @pytest.fixture
    def backend(self):
        pytest.importorskip("label_studio_sdk", reason="pip install label-studio-sdk")
        from maskfeat.integrations import label_studio

        return label_studio

    @pytest.fixture
    def tool(self, backend):
        return TestClient(backend.create_app(PromptedImages("lab")))

    @pytest.fixture
    def url(self, backend, monkeypatch, tmp_path, png):
        """An image of Label Studio's local storage."""
        (tmp_path / "photo.png").write_bytes(png)
        library = importlib.import_module(backend.get_local_path.__module__)
        monkeypatch.setattr(library, "LOCAL_FILES_DOCUMENT_ROOT", str(tmp_path))
        return "/data/local-files/?d=photo.png"

    @pytest.fixture
    def predict(self, tool, url):
        def predict(control, *prompts):
            body = {"tasks": [{"id": 1, "data": {"photo": url}}], "project": "1.2"}
            body["label_config"] = CONFIG.format(control=control)
            body["params"] = {"context": {"result": list(prompts)}}
            return tool.post("/predict", json=body)

        return predict

    @staticmethod
    def point(x, y, is_positive):
        value = {"x": x / 80 * 100, "y": y / 60 * 100, "width": 0.5, "keypointlabels": ["thing"]}
        return {"type": "keypointlabels", "value": value, "is_positive": int(is_positive)}

    def test_it_says_that_it_is_there(self, tool) -> None:
        assert tool.get("/health").json()["status"] == "UP"
        assert tool.post("/setup", json={}).json()["model_version"].startswith("maskfeat")
        assert tool.post("/webhook", json={"action": "x"}).status_code == 201

    def test_clicks_give_a_brush_mask(self, predict, square) -> None:
        from label_studio_sdk.converter.brush import decode_rle
        from label_studio_sdk.label_interface import LabelInterface

        answer = predict("BrushLabels", self.point(30, 20, True), self.point(5, 5, False)).json()
        (prediction,) = answer["results"]
        interface = LabelInterface(CONFIG.format(control="BrushLabels"))
        assert interface.validate_prediction(prediction, return_errors=True) == []
        value = prediction["result"][0]["value"]
        assert value["brushlabels"] == ["thing"]
        mask = decode_rle(value["rle"]).reshape(*SIZE, 4)[..., 3] > 0
        np.testing.assert_array_equal(mask, square)

    def test_a_box_gives_polygons(self, predict, square) -> None:
        from label_studio_sdk.label_interface import LabelInterface

        value = {"x": 22.5, "y": 100 * 8 / 60, "width": 42.5, "height": 100 * 34 / 60}
        value["rectanglelabels"] = ["thing"]
        answer = predict("PolygonLabels", {"type": "rectanglelabels", "value": value}).json()
        (prediction,) = answer["results"]
        interface = LabelInterface(CONFIG.format(control="PolygonLabels"))
        assert interface.validate_prediction(prediction, return_errors=True) == []
        points = np.array(prediction["result"][0]["value"]["points"]) / 100 * (80, 60)
        assert iou(polygon2mask(SIZE, points[:, ::-1] - 0.5), square) > 0.9

    def test_without_prompts_nothing_is_predicted(self, predict) -> None:
        assert predict("BrushLabels").json() == {"results": []}

    def test_bad_requests_get_a_sentence(self, predict, tool) -> None:
        answer = predict("Labels", self.point(30, 20, True))
        assert answer.status_code == 400
        assert "BrushLabels or PolygonLabels" in answer.json()["error"]

    def test_a_password_is_checked(self, backend) -> None:
        tool = TestClient(backend.create_app(PromptedImages("lab"), "secret"))
        refused = tool.post("/setup", json={})
        assert refused.status_code == 401
        assert refused.json() == {"error": "the password is missing or wrong"}
        assert tool.post("/setup", json={}, auth=("any", "guess")).status_code == 401
        assert tool.post("/setup", json={}, auth=("any", "secret")).status_code == 200


class TestNapari:
    """The widget on napari's own viewer, without a window."""

    @pytest.fixture
    def widget(self, monkeypatch):
        monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
        pytest.importorskip("napari", reason="pip install napari[all]")
        qt = pytest.importorskip("qtpy.QtWidgets", reason="pip install napari[all]")
        from napari.components import ViewerModel

        from maskfeat.integrations.napari_widget import SegmentsWidget

        app = qt.QApplication.instance() or qt.QApplication([])
        viewer = ViewerModel()
        yield SegmentsWidget(viewer, InteractiveSegmenter("lab").model), viewer
        app.processEvents()

    def test_the_slider_cuts_the_tree_of_the_layer(self, widget) -> None:
        segments, viewer = widget
        layer = viewer.add_image(draw_scene(1, 0, (64, 96)).image, name="scene", rgb=True)
        segments.layer.choices = [layer]
        segments.layer.value = layer
        counts = []
        for granularity in (0.1, 0.9):
            segments.granularity.value = granularity
            counts.append(viewer.layers["scene segments"].data.max())
        assert counts[0] < counts[1]
        assert len(viewer.layers) == 2
        edited = viewer.layers["scene segments"]
        edited.data[0, 0] = 77
        segments.granularity.value = 0.5
        assert edited.data[0, 0] == 77  # the next granularity went to another layer
        assert len(viewer.layers) == 3

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_layers_of_many_kinds_become_8_bits(self, widget, dtype) -> None:
        from maskfeat.integrations.napari_widget import rgb_of_layer

        gray = np.linspace(0, 200, 48).reshape(6, 8).astype(dtype)
        rgb = rgb_of_layer(gray)
        assert (rgb.shape, rgb.dtype) == ((6, 8, 3), np.uint8)
        assert rgb[0, 0, 0] < rgb[5, 7, 0]
        with pytest.raises(ValueError, match="one page"):
            rgb_of_layer(np.zeros((5, 6, 8), dtype))

    def test_the_manifest_is_valid(self, repository) -> None:
        npe2 = pytest.importorskip("npe2", reason="pip install napari[all]")
        manifest = npe2.PluginManifest.from_file(repository / "maskfeat/integrations/napari.yaml")
        manifest.validate_imports()
