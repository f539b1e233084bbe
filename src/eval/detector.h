// The analytic detector: what a clip of the procedural kind shows, measured without learning.
//
//   foreground   pixels whose largest and smallest channel differ by more than .25 (backgrounds are
//                grey); of those the largest 8-connected component of each frame
//   colour       the named hue nearest to the hue of the foreground's mean colour
//   size         mean area over frames against 275 square pixels (at 96 x 96)
//   shape        best overlap (intersection over union of coverages) over 4 templates of the
//                measured area x 24 rotations
//   direction    least-squares velocity of the centroid: nearest of 8
//   speed        the same velocity against the middle of the two speeds
//   background   best of four fitted models outside the foreground, each with a free brightness
//
// Coverage of a pixel is its channel difference relative to the object's full one: grey behind a
// soft edge takes nothing away from either hue or centroid.
//
// Dims  F frames, P height, Q width in pixels
#pragma once

#include <ATen/core/Tensor.h>

#include "data/shapes.h"

namespace fastwan::eval {

struct Detection {
  // An object was seen in at least half of the frames; else everything below is meaningless.
  bool is_found = false;
  data::shapes::Attributes attributes;

  double hue_degrees = 0;        // [0, 360)
  double saturation = 0;         // of the object's inner pixels
  double area_px = 0;            // mean over frames
  double overlap = 0;            // of the best template, [0, 1]
  double rotation = 0;           // radians, [0, symmetry_period(shape))
  data::shapes::Point start;     // fitted centre in frame 0
  data::shapes::Point velocity;  // pixels a frame, y down
  double background_error = 0;   // standard deviation of what the best background leaves
  double background_angle = 0;   // radians, of stripes and gradients: background.h

  // Steadiness
  double found_share = 0;           // of frames with an object
  double fragment_share = 0;        // of foreground pixels outside the largest component, mean
  double centroid_residual_px = 0;  // root mean square distance from the fitted line
  double area_variation = 0;        // standard deviation of the area / mean area, over frames
  double colour_variation = 0;  // root mean square distance of a frame's mean colour from the mean
  double flicker = 0;           // outside the moving region: temporal.h
  // Share of the object's pixels in frame 0 whose hue is more than 22.5 degrees, half the way to
  // the next named one, off `hue_degrees`; 1 where frame 0 shows no object. The first frame
  // alone has a latent frame of its own, so it is the one that goes wrong.
  double first_frame_hue_error = 0;
};

// frames [F, 3, P, Q] in [0, 1], F >= 2, sides of 32 or more. InvalidInput bad_tensor.
Detection detect(const at::Tensor& frames);

// [F, P, Q] bool: the foreground of each frame, all components, widened by two pixels.
at::Tensor moving_region(const at::Tensor& frames);

// The angle after which a shape looks the same: a full turn for the circle.
double symmetry_period(data::shapes::Shape shape);

// A clip's bytes as detect takes them: [F, 3, P, Q] fp32 in [0, 1].
at::Tensor to_frames(const data::shapes::Clip& clip);

}  // namespace fastwan::eval
