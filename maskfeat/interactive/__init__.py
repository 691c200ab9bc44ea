"""Clicks become masks.

One click, from the page to the mask, passes through these files:

1. `segmenter`: `InteractiveSegmenter` checks what comes in (`prompt_checks`) and scales it;
2. `click_by_click`: the click gets its click radius on the mask that was shown;
3. `update`: which clicks are read together, and which correct the mask one after another;
4. `prompted_masks`: the mask of a cut of the whole image, or a change around one click;
5. `image.Unary`: logits of "object" per pixel: from the click decoder (`decoded_image`, `decoder`),
6. `feature_unary`: or from distances of features, where there is no decoder;
7. `cut`: the minimum cut of superpixels;
8. `outline_cut`: the minimum cut of the pixels near its outline.

`image` holds what is computed once for an image. `click_task`, `click_data` and `training_session`
train the decoder.
"""
