const TEXT_MAX = 4 * 1024 * 1024;

/** Takes the data of server-sent events out of a text that comes in pieces, cut anywhere. */
export class SseReader {
  #rest = '';
  #data: string[] = [];
  #cut = false;

  /** The data of the events that this piece ends. Throws where one event is longer than any model writes. */
  push(piece: string): string[] {
    // A line break may be cut in two: its second half is no empty line.
    let text = this.#rest + (this.#cut && piece.startsWith('\n') ? piece.slice(1) : piece);
    if (piece !== '') this.#cut = piece.endsWith('\r');
    const out: string[] = [];
    for (;;) {
      const end = text.search(/[\r\n]/);
      if (end < 0) break;
      this.#line(text.slice(0, end), out);
      text = text.slice(end + (text.startsWith('\r\n', end) ? 2 : 1));
    }
    if (text.length > TEXT_MAX) throw new RangeError(`an event is longer than ${TEXT_MAX} characters`);
    this.#rest = text;
    return out;
  }

  #line(line: string, out: string[]): void {
    if (line === '') {
      if (this.#data.length > 0) out.push(this.#data.join('\n'));
      this.#data = [];
      return;
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    if (field !== 'data') return;
    const value = colon < 0 ? '' : line.slice(colon + 1);
    this.#data.push(value.startsWith(' ') ? value.slice(1) : value);
  }
}
