import { memo, useMemo, type ReactNode } from 'react';
import { markdown, type Block, type Inline } from '../pure/markdown';
import { Copy } from './copy';

/** What a model has written. */
export const Said = memo(function Said({ text }: { text: string }): ReactNode {
  const blocks = useMemo(() => markdown(text), [text]);
  return (
    <div className="said">
      {blocks.map((block, at) => (
        <OneBlock key={at} block={block} />
      ))}
    </div>
  );
});

function OneBlock({ block }: { block: Block }): ReactNode {
  switch (block.t) {
    case 'p':
      return <p>{words(block.inner)}</p>;
    case 'h':
      // The page has headings of its own above: a model's are parts of its answer.
      return block.level <= 2 ? <h3>{words(block.inner)}</h3> : <h4>{words(block.inner)}</h4>;
    case 'code':
      return (
        <div className="code">
          <div className="code-head">
            <span>{block.language || 'text'}</span>
            <Copy text={block.text} what="code" />
          </div>
          <pre tabIndex={0}>
            <code>{block.text}</code>
          </pre>
        </div>
      );
    case 'list': {
      const items = block.items.map((item, at) => <li key={at}>{words(item)}</li>);
      return block.ordered ? <ol start={block.start}>{items}</ol> : <ul>{items}</ul>;
    }
    case 'quote':
      return <blockquote>{words(block.inner)}</blockquote>;
    case 'table':
      return (
        <div className="wide" tabIndex={0}>
          <table>
            <thead>
              <tr>
                {block.head.map((cell, at) => (
                  <th key={at}>{words(cell)}</th>
                ))}
              </tr>
            </thead>
            <tbody>
              {block.rows.map((row, at) => (
                <tr key={at}>
                  {row.map((cell, column) => (
                    <td key={column}>{words(cell)}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      );
    case 'rule':
      return <hr />;
  }
}

function words(parts: readonly Inline[]): ReactNode {
  return parts.map((part, at) => {
    switch (part.t) {
      case 'text':
        return part.text;
      case 'code':
        return <code key={at}>{part.text}</code>;
      case 'strong':
        return <strong key={at}>{words(part.inner)}</strong>;
      case 'em':
        return <em key={at}>{words(part.inner)}</em>;
    }
  });
}
