// libvpx's encoder behind four functions, so that the layout of its structs is the C compiler's business and not ours.
// src/vp8.rs is the only caller.

#include <stdint.h>
#include <stdlib.h>
#include <vpx/vp8cx.h>
#include <vpx/vpx_encoder.h>

typedef struct {
  vpx_codec_ctx_t codec;
  vpx_codec_enc_cfg_t config;
  vpx_image_t image;
} muster_vp8;

void muster_vp8_free(muster_vp8 *vp8) {
  if (vp8 == NULL) return;
  vpx_codec_destroy(&vp8->codec);
  free(vp8);
}

// Times are in 90000ths of a second. NULL when the library refuses; *error is then its code.
muster_vp8 *muster_vp8_new(uint32_t width, uint32_t height, uint32_t kbps, int *error) {
  muster_vp8 *vp8 = calloc(1, sizeof *vp8);
  *error = VPX_CODEC_MEM_ERROR;
  if (vp8 == NULL) return NULL;
  vpx_codec_enc_cfg_t *config = &vp8->config;
  *error = vpx_codec_enc_config_default(vpx_codec_vp8_cx(), config, 0);
  if (*error != VPX_CODEC_OK) {
    free(vp8);
    return NULL;
  }
  config->g_w = width;
  config->g_h = height;
  config->g_timebase.num = 1;
  config->g_timebase.den = 90000;
  config->g_threads = 1;
  config->g_lag_in_frames = 0;
  config->g_error_resilient = VPX_ERROR_RESILIENT_DEFAULT;
  config->g_pass = VPX_RC_ONE_PASS;
  config->rc_end_usage = VPX_CBR;
  config->rc_target_bitrate = kbps;
  config->rc_min_quantizer = 4;
  config->rc_max_quantizer = 56;
  config->rc_undershoot_pct = 100;
  config->rc_overshoot_pct = 15;
  config->rc_buf_initial_sz = 300;
  config->rc_buf_optimal_sz = 300;
  config->rc_buf_sz = 600;
  config->rc_dropframe_thresh = 30;
  config->rc_resize_allowed = 0;
  config->kf_mode = VPX_KF_DISABLED;
  *error = vpx_codec_enc_init(&vp8->codec, vpx_codec_vp8_cx(), config, 0);
  if (*error != VPX_CODEC_OK) {
    free(vp8);
    return NULL;
  }
  // What cannot be set is left at its default, which is slower and no worse.
  vpx_codec_control(&vp8->codec, VP8E_SET_CPUUSED, -12);
  vpx_codec_control(&vp8->codec, VP8E_SET_STATIC_THRESHOLD, 1);
  vpx_codec_control(&vp8->codec, VP8E_SET_NOISE_SENSITIVITY, 0);
  vpx_codec_control(&vp8->codec, VP8E_SET_TOKEN_PARTITIONS, VP8_ONE_TOKENPARTITION);
  // A key frame takes no more than six times its share, so that it does not hold up those after it.
  vpx_codec_control(&vp8->codec, VP8E_SET_MAX_INTRA_BITRATE_PCT, 600);
  return vp8;
}

int muster_vp8_rate(muster_vp8 *vp8, uint32_t kbps) {
  vp8->config.rc_target_bitrate = kbps;
  return vpx_codec_enc_config_set(&vp8->codec, &vp8->config);
}

// Encodes a picture of the size that the encoder was made for. *bytes is the encoder's own until the next call; *length is
// 0 when it left the picture out.
int muster_vp8_encode(muster_vp8 *vp8, const uint8_t *y, const uint8_t *u, const uint8_t *v, int64_t time,
                      uint32_t lasts, int wants_key, const uint8_t **bytes, size_t *length, int *is_key) {
  const uint32_t width = vp8->config.g_w, height = vp8->config.g_h;
  *bytes = NULL;
  *length = 0;
  *is_key = 0;
  // Wrapped as one plane after another, and then pointed at each plane; the library only reads them.
  if (vpx_img_wrap(&vp8->image, VPX_IMG_FMT_I420, width, height, 1, (uint8_t *)y) == NULL) return VPX_CODEC_MEM_ERROR;
  vp8->image.planes[VPX_PLANE_Y] = (uint8_t *)y;
  vp8->image.planes[VPX_PLANE_U] = (uint8_t *)u;
  vp8->image.planes[VPX_PLANE_V] = (uint8_t *)v;
  vp8->image.stride[VPX_PLANE_Y] = (int)width;
  vp8->image.stride[VPX_PLANE_U] = (int)(width / 2);
  vp8->image.stride[VPX_PLANE_V] = (int)(width / 2);
  const vpx_enc_frame_flags_t flags = wants_key ? VPX_EFLAG_FORCE_KF : 0;
  const int error = vpx_codec_encode(&vp8->codec, &vp8->image, time, lasts, flags, VPX_DL_REALTIME);
  if (error != VPX_CODEC_OK) return error;
  vpx_codec_iter_t at = NULL;
  const vpx_codec_cx_pkt_t *packet;
  while ((packet = vpx_codec_get_cx_data(&vp8->codec, &at)) != NULL) {
    if (packet->kind != VPX_CODEC_CX_FRAME_PKT) continue;
    *bytes = packet->data.frame.buf;
    *length = packet->data.frame.sz;
    *is_key = (packet->data.frame.flags & VPX_FRAME_IS_KEY) != 0;
    break;
  }
  return VPX_CODEC_OK;
}

const char *muster_vp8_words(int error) { return vpx_codec_err_to_string((vpx_codec_err_t)error); }
