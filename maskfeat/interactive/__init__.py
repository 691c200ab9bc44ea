"""Clicks become masks.

One click, from the page to the mask, passes through these files:

1. `segmenter`: `InteractiveSegmenter` checks all prompts together, and scales them;
2. `prompts`: what a prompt is, and the pixels that it can change;
3. `update`: the click radius on the mask that was shown; which prompts are read together, and which
   correct the mask one after another: a cut of the whole image, or of a window around one prompt;
4. `decoder_unary`: logits of "object" per pixel by the click decoder, from maps of image, prompts
   and tree, in two looks; `feature_unary`: or from distances of features, where there is no
   decoder;
5. `cut`: the minimum cuts of superpixels, and of the pixels near the outline.

`decoder` is the network, `image` holds what is computed once for an image, `prompt_checks` what
`predict` refuses. The room `training` trains the decoder.
"""
