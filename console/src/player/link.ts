import { apart, onlyLoopback, preferred, withStereo } from '../pure/sdp';
import type { FromContainer, InputMessage, ToContainer } from './wire';

/** No try will help: the browser itself lacks what is needed. */
export class Unsupported extends Error {}

interface LinkOptions {
  iceServers: RTCIceServer[];
  microphone: MediaStreamTrack | null;
  onMessage: (message: FromContainer, at: number) => void;
  onTrack: (track: MediaStreamTrack) => void;
  onLost: () => void;
}

// Chromium had these before, or has them instead of, `jitterBufferTarget`.
type Receiver = RTCRtpReceiver & { playoutDelayHint?: number | null };

/** A browser may refuse an offer that was changed; then the next one goes as it is. */
let stereoRefused = false;

/** One WebRTC connection to the Container; a reconnect makes a new one. */
export class Link {
  readonly pc: RTCPeerConnection;
  readonly open: Promise<void>;
  readonly video: RTCRtpTransceiver;
  readonly audio: RTCRtpTransceiver;
  private readonly input: RTCDataChannel;
  private readonly control: RTCDataChannel;
  private local: Promise<void> = Promise.resolve();
  private closed = false;
  private loopback = false;

  constructor(private readonly options: LinkOptions) {
    if (typeof RTCPeerConnection !== 'function') {
      throw new Unsupported('This browser has no WebRTC, which brings the picture here. A current Chromium, Firefox or Safari has it.');
    }
    // Not `max-bundle`: it offers all but the first line with port 0, which the Container's side takes for inactive.
    this.pc = new RTCPeerConnection({ iceServers: options.iceServers, rtcpMuxPolicy: 'require' });
    this.input = this.pc.createDataChannel('input', { ordered: true });
    this.control = this.pc.createDataChannel('control', { ordered: true });
    this.video = this.pc.addTransceiver('video', { direction: 'recvonly' });
    this.audio = this.pc.addTransceiver(options.microphone ?? 'audio', { direction: options.microphone ? 'sendrecv' : 'recvonly' });
    this.preferCodecs();
    this.open = this.opened();
    this.control.onmessage = (event: MessageEvent) => this.receive(event.data);
    this.control.onclose = () => this.lost();
    this.pc.ontrack = (event) => this.track(event);
    this.pc.oniceconnectionstatechange = () => {
      const state = this.pc.iceConnectionState;
      if (state === 'disconnected' || state === 'failed' || state === 'closed') this.lost();
    };
    this.pc.onconnectionstatechange = () => {
      if (this.pc.connectionState === 'failed') this.lost();
    };
  }

  /** The offer, without candidates: the Container is ICE-lite, and learns ours from their checks. */
  async offer(): Promise<string> {
    const offer = await this.pc.createOffer();
    const plain = offer.sdp ?? '';
    const sdp = stereoRefused ? plain : withStereo(plain);
    this.local = this.pc.setLocalDescription({ type: 'offer', sdp });
    this.local.catch(() => {
      stereoRefused = sdp !== plain;
      this.lost();
    });
    return sdp;
  }

  async answer(sdp: string): Promise<void> {
    await this.local;
    this.loopback = onlyLoopback(sdp);
    await this.pc.setRemoteDescription({ type: 'answer', sdp: apart(sdp) });
  }

  /** Whether the browser does not even try the only address there is: Firefox connects to no program on its own machine. */
  get barred(): boolean {
    return this.loopback && this.pc.iceConnectionState === 'new';
  }

  get live(): boolean {
    return !this.closed;
  }

  /** Tells whether it was sent. */
  send(message: InputMessage): boolean {
    return this.put(this.input, message);
  }

  tell(message: ToContainer): boolean {
    return this.put(this.control, message);
  }

  close(): void {
    this.closed = true;
    this.pc.close();
  }

  private put(channel: RTCDataChannel, message: InputMessage | ToContainer): boolean {
    if (channel.readyState !== 'open') return false;
    channel.send(JSON.stringify(message));
    return true;
  }

  private opened(): Promise<void> {
    const one = (channel: RTCDataChannel): Promise<void> =>
      new Promise((resolve) => {
        channel.onopen = () => resolve();
      });
    return Promise.all([one(this.input), one(this.control)]).then(() => undefined);
  }

  private lost(): void {
    if (this.closed) return;
    this.options.onLost();
  }

  private track(event: RTCTrackEvent): void {
    const receiver: Receiver = event.receiver;
    if (event.track.kind === 'video') {
      if ('jitterBufferTarget' in receiver) receiver.jitterBufferTarget = 0;
      if ('playoutDelayHint' in receiver) receiver.playoutDelayHint = 0;
    }
    this.options.onTrack(event.track);
  }

  private receive(data: unknown): void {
    const at = performance.now();
    if (this.closed || typeof data !== 'string') return;
    let message: unknown;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    if (typeof message === 'object' && message !== null && 't' in message) this.options.onMessage(message as FromContainer, at);
  }

  private preferCodecs(): void {
    const codecs = typeof RTCRtpReceiver === 'function' ? RTCRtpReceiver.getCapabilities?.('video')?.codecs : undefined;
    if (codecs === undefined) return;
    const order = preferred(codecs);
    if (order.length === 0) {
      throw new Unsupported('This browser can play neither H.264 nor VP8 over WebRTC, and the picture comes as one of them. Another browser may help.');
    }
    try {
      this.video.setCodecPreferences?.(order);
    } catch {
      // A browser that does not take the order keeps its own; the Container picks what both have.
    }
  }
}
