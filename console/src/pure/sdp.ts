/** The offer, with a wish for stereo: without it the browser mixes Opus down to one channel. */
export function withStereo(sdp: string): string {
  const opus = /a=rtpmap:(\d+) opus\/48000\/2/i.exec(sdp)?.[1];
  if (opus === undefined) return sdp;
  return sdp.replace(new RegExp(`(a=fmtp:${opus} )([^\\r\\n]*)`), (line: string, head: string, rest: string) =>
    /(^|;)\s*stereo=/.test(rest) ? line : `${head}${rest};stereo=1`,
  );
}

/**
 * The answer, with picture and sound in streams of their own: what shares a stream is kept in step, and the picture
 * would wait for the sound.
 */
export function apart(sdp: string): string {
  return sdp
    .split(/(?=^m=)/m)
    .map((section) => {
      const kind = /^m=(audio|video)/.exec(section)?.[1];
      if (kind === undefined) return section;
      return section.replace(/^(a=(?:ssrc:\d+ )?msid:)\S+/gm, `$1muster-${kind}`);
    })
    .join('');
}

/** Whether the answer names no address but this machine's own. */
export function onlyLoopback(sdp: string): boolean {
  const addresses = [...sdp.matchAll(/^a=candidate:\S+ \d+ \S+ \d+ (\S+) /gim)].map(([, address]) => address ?? '');
  return addresses.length > 0 && addresses.every((address) => address.startsWith('127.') || address === '::1');
}

/** A codec as `RTCRtpReceiver.getCapabilities` tells it. */
export interface Codec {
  mimeType: string;
  sdpFmtpLine?: string;
}

/**
 * The codecs to offer, best first: H.264 with packetization mode 1, constrained baseline before others, then VP8, then
 * what repairs losses. Empty where the browser has neither.
 */
export function preferred<C extends Codec>(codecs: readonly C[]): C[] {
  const is = (codec: C, name: string): boolean => codec.mimeType.toLowerCase() === `video/${name}`;
  const line = (codec: C): string => (codec.sdpFmtpLine ?? '').toLowerCase();
  const h264 = codecs.filter((codec) => is(codec, 'h264') && line(codec).includes('packetization-mode=1'));
  const baseline = h264.filter((codec) => /profile-level-id=42(e0|[c-f]0)/.test(line(codec)));
  const others = h264.filter((codec) => !baseline.includes(codec));
  const vp8 = codecs.filter((codec) => is(codec, 'vp8'));
  const picture = [...baseline, ...others, ...vp8];
  if (picture.length === 0) return [];
  return [...picture, ...codecs.filter((codec) => ['rtx', 'red', 'ulpfec', 'flexfec-03'].some((name) => is(codec, name)))];
}
