//! What a display has besides its picture: the shape of the pointer, and the clipboard. A thread of its own watches them,
//! with a connection of its own, so that a program that is slow to give its clipboard holds up nothing else.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x11rb::connection::Connection;
use x11rb::protocol::Event;
use x11rb::protocol::xfixes::{ConnectionExt as _, CursorNotifyMask, GetCursorImageReply, SelectionEventMask};
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ConnectionExt as _, CreateWindowAux, EventMask, PropMode, SELECTION_NOTIFY_EVENT,
    SelectionNotifyEvent, SelectionRequestEvent, WindowClass,
};
use x11rb::rust_connection::RustConnection;
use x11rb::wrapper::ConnectionExt as _;

use crate::display::{DisplayError, connect};
use crate::messages::{CLIP_BYTES_MAX, Shape};
use crate::wake::{Receiver, Sender, Unsent, wait};

/// Pointers that are larger are sent smaller: their message has to stay below the bound of the channel.
const SIDE_MAX: usize = 96;
/// A pointer that moves by itself is sent no more often than this.
const SHAPE_GAP: Duration = Duration::from_millis(40);
/// A clipboard that changes all the time is sent no more often than this.
const CLIP_GAP: Duration = Duration::from_millis(250);

/// What the thread has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The pointer looks like this; nothing when it cannot be seen.
    Pointer(Option<Shape>),
    /// The program has put this onto its clipboard.
    Clip(String),
    /// The program's clipboard holds more than is sent.
    ClipTooLong,
}

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Put this onto the program's clipboard.
    Clip(String),
    /// Whether any player wants the program's clipboard; nobody reads it otherwise. Told again for each player that does.
    ClipWanted(bool),
}

x11rb::atom_manager! {
    /// Names that the X server has numbers for.
    Atoms: AtomsCookie {
        CLIPBOARD,
        TARGETS,
        TIMESTAMP,
        UTF8_STRING,
        TEXT,
        PLAIN: b"text/plain",
        PLAIN_UTF8: b"text/plain;charset=utf-8",
        INCR,
        MUSTER_CLIP,
    }
}

pub(crate) struct Aside {
    connection: RustConnection,
    window: u32,
    atoms: Atoms,
    wishes: Receiver<Wish>,
    seen: Sender<Seen>,
    /// What the player has put onto the clipboard.
    ours: Option<String>,
    clip_wanted: bool,
    /// When the clipboard is to be asked for, and when it was.
    clip_due: Option<Instant>,
    clip_asked: Option<Instant>,
    shape_due: Option<Instant>,
    shape_looked: Option<Instant>,
    shape_sent: Option<Option<Shape>>,
}

impl std::fmt::Debug for Aside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aside").field("clip_wanted", &self.clip_wanted).finish_non_exhaustive()
    }
}

fn trouble<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> DisplayError {
    move |error| DisplayError::protocol(what, error)
}

const POINTER: &str = "tell its pointer's shape";
const CLIPBOARD: &str = "share its clipboard";

impl Aside {
    pub(crate) fn open(socket: &Path, wishes: Receiver<Wish>, seen: Sender<Seen>) -> Result<Self, DisplayError> {
        let connection = connect(socket)?;
        let screen = connection.setup().roots.first().ok_or_else(|| DisplayError::protocol("show a screen", "none"))?;
        let root = screen.root;
        let fixes = connection.xfixes_query_version(5, 0).map_err(trouble(POINTER))?;
        fixes.reply().map_err(trouble(POINTER))?;
        let atoms = Atoms::new(&connection).map_err(trouble(CLIPBOARD))?.reply().map_err(trouble(CLIPBOARD))?;
        let window = connection.generate_id().map_err(trouble(CLIPBOARD))?;
        // Never shown; it only owns the clipboard and takes what others put there.
        let options = CreateWindowAux::new().event_mask(EventMask::NO_EVENT);
        connection
            .create_window(0, window, root, -1, -1, 1, 1, 0, WindowClass::INPUT_ONLY, 0, &options)
            .map_err(trouble(CLIPBOARD))?
            .check()
            .map_err(trouble(CLIPBOARD))?;
        let owners = SelectionEventMask::SET_SELECTION_OWNER;
        connection.xfixes_select_selection_input(window, atoms.CLIPBOARD, owners).map_err(trouble(CLIPBOARD))?;
        connection.xfixes_select_cursor_input(root, CursorNotifyMask::DISPLAY_CURSOR).map_err(trouble(POINTER))?;
        Ok(Self {
            connection,
            window,
            atoms,
            wishes,
            seen,
            ours: None,
            clip_wanted: false,
            clip_due: None,
            clip_asked: None,
            shape_due: Some(Instant::now()),
            shape_looked: None,
            shape_sent: None,
        })
    }

    /// Works until nobody has wishes any more, or the display is gone.
    pub(crate) fn run(mut self) {
        match self.work() {
            Ok(()) => {}
            // The studio sees it too, and tells.
            Err(error) => tracing::debug!(%error, "the pointer and the clipboard are watched no longer"),
        }
    }

    fn work(&mut self) -> Result<(), DisplayError> {
        loop {
            if !self.take_wishes()? {
                return Ok(());
            }
            let now = Instant::now();
            if self.clip_due.is_some_and(|due| now >= due) {
                self.clip_due = None;
                self.clip_asked = Some(now);
                self.ask_clip(self.atoms.UTF8_STRING)?;
            }
            if self.shape_due.is_some_and(|due| now >= due) && !self.shape(now)? {
                return Ok(());
            }
            // Sending may read along what came, so the last thing before the wait is a look that finds nothing.
            loop {
                self.connection.flush().map_err(trouble(CLIPBOARD))?;
                match self.connection.poll_for_event().map_err(trouble("tell what changed"))? {
                    Some(event) => self.event(&event)?,
                    None => break,
                }
            }
            let due = [self.clip_due, self.shape_due].into_iter().flatten().min();
            let pause = due.map(|due| due.saturating_duration_since(now));
            wait([self.connection.stream().as_fd(), self.wishes.as_fd()], pause)?;
        }
    }

    /// `false` once nobody has any more.
    fn take_wishes(&mut self) -> Result<bool, DisplayError> {
        self.wishes.quiet();
        loop {
            match self.wishes.next() {
                Ok(Wish::Clip(text)) => {
                    self.ours = Some(text);
                    self.clip_due = None;
                    for selection in [self.atoms.CLIPBOARD, AtomEnum::PRIMARY.into()] {
                        let owned = self.connection.set_selection_owner(self.window, selection, x11rb::CURRENT_TIME);
                        owned.map_err(trouble(CLIPBOARD))?;
                    }
                }
                Ok(Wish::ClipWanted(on)) => {
                    self.clip_wanted = on;
                    self.clip_due = None;
                    if on {
                        self.want_clip();
                    }
                }
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    fn want_clip(&mut self) {
        let now = Instant::now();
        self.clip_due = Some(self.clip_asked.map_or(now, |asked| now.max(asked + CLIP_GAP)));
    }

    fn event(&mut self, event: &Event) -> Result<(), DisplayError> {
        match event {
            Event::XfixesCursorNotify(_) => {
                let now = Instant::now();
                let free = self.shape_looked.map_or(now, |looked| now.max(looked + SHAPE_GAP));
                self.shape_due.get_or_insert(free);
            }
            Event::XfixesSelectionNotify(change)
                if change.selection == self.atoms.CLIPBOARD && change.owner != self.window =>
            {
                self.clip_due = None;
                if self.clip_wanted && change.owner != x11rb::NONE {
                    self.want_clip();
                }
            }
            Event::SelectionClear(gone) if gone.selection == self.atoms.CLIPBOARD => self.ours = None,
            Event::SelectionRequest(request) => self.give(request)?,
            Event::SelectionNotify(came) if came.requestor == self.window && self.clip_wanted => {
                if came.property == self.atoms.MUSTER_CLIP {
                    self.take_clip()?;
                } else if came.target == self.atoms.UTF8_STRING {
                    // Old programs know only the old form.
                    self.ask_clip(AtomEnum::STRING.into())?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Asks the program for its clipboard; the answer comes as an event, or never.
    fn ask_clip(&self, target: Atom) -> Result<(), DisplayError> {
        if self.ours.is_some() {
            return Ok(());
        }
        let (selection, property) = (self.atoms.CLIPBOARD, self.atoms.MUSTER_CLIP);
        let asked = self.connection.convert_selection(self.window, selection, target, property, x11rb::CURRENT_TIME);
        asked.map(drop).map_err(trouble(CLIPBOARD))
    }

    /// Reads what the program has given. What comes in pieces is longer than is sent.
    fn take_clip(&self) -> Result<(), DisplayError> {
        let most = u32::try_from(CLIP_BYTES_MAX / 4).unwrap_or(0);
        let property = self.atoms.MUSTER_CLIP;
        let asked = self.connection.get_property(false, self.window, property, AtomEnum::ANY, 0, most);
        let value = asked.map_err(trouble(CLIPBOARD))?.reply().map_err(trouble(CLIPBOARD))?;
        self.connection.delete_property(self.window, property).map_err(trouble(CLIPBOARD))?;
        let seen = if value.type_ == self.atoms.INCR || value.bytes_after > 0 {
            Seen::ClipTooLong
        } else if value.format != 8 || value.value.is_empty() {
            return Ok(());
        } else if value.type_ == Atom::from(AtomEnum::STRING) {
            Seen::Clip(value.value.iter().copied().map(char::from).collect())
        } else {
            Seen::Clip(String::from_utf8_lossy(&value.value).into_owned())
        };
        if self.seen.send(seen).is_err() {
            tracing::debug!("a clipboard is not told");
        }
        Ok(())
    }

    /// Gives the program what the player put onto the clipboard.
    fn give(&self, request: &SelectionRequestEvent) -> Result<(), DisplayError> {
        // Programs of the last century name no property, and mean the target's.
        let property = if request.property == x11rb::NONE { request.target } else { request.property };
        let given = self.put(request.requestor, property, request.target)?;
        let answer = SelectionNotifyEvent {
            response_type: SELECTION_NOTIFY_EVENT,
            sequence: 0,
            time: request.time,
            requestor: request.requestor,
            selection: request.selection,
            target: request.target,
            property: if given { property } else { x11rb::NONE },
        };
        let sent = self.connection.send_event(false, request.requestor, EventMask::NO_EVENT, answer);
        sent.map(drop).map_err(trouble(CLIPBOARD))
    }

    /// Puts it where the program wants it; `false` where it cannot be had in the form that is asked for.
    fn put(&self, to: u32, property: Atom, target: Atom) -> Result<bool, DisplayError> {
        let Some(text) = &self.ours else { return Ok(false) };
        let atoms = &self.atoms;
        let put = |form: Atom, bytes: &[u8]| {
            self.connection.change_property8(PropMode::REPLACE, to, property, form, bytes).map(drop)
        };
        let string = Atom::from(AtomEnum::STRING);
        let done = if target == atoms.TARGETS {
            let all = [atoms.TARGETS, atoms.UTF8_STRING, atoms.PLAIN_UTF8, atoms.PLAIN, atoms.TEXT, string];
            self.connection.change_property32(PropMode::REPLACE, to, property, AtomEnum::ATOM, &all).map(drop)
        } else if [atoms.UTF8_STRING, atoms.PLAIN_UTF8, atoms.PLAIN].contains(&target) {
            put(target, text.as_bytes())
        } else if target == atoms.TEXT {
            put(atoms.UTF8_STRING, text.as_bytes())
        } else if target == string {
            // Latin-1; what it has no sign for is a question mark, as everywhere.
            let latin: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
            put(string, &latin)
        } else {
            return Ok(false);
        };
        done.map(|()| true).map_err(trouble(CLIPBOARD))
    }

    /// Looks at the pointer and tells its shape where it has changed; `false` once nobody listens.
    fn shape(&mut self, now: Instant) -> Result<bool, DisplayError> {
        self.shape_due = None;
        self.shape_looked = Some(now);
        let asked = self.connection.xfixes_get_cursor_image().map_err(trouble(POINTER))?;
        // A display without a pointer has none to show.
        let shape = asked.reply().ok().and_then(|image| draw(&image));
        let same = |sent: &Option<Shape>| match (sent, &shape) {
            (Some(sent), Some(shape)) => (&sent.png, sent.hot) == (&shape.png, shape.hot),
            (None, None) => true,
            _ => false,
        };
        if self.shape_sent.as_ref().is_some_and(same) {
            return Ok(true);
        }
        match self.seen.send(Seen::Pointer(shape.clone())) {
            Ok(()) => self.shape_sent = Some(shape),
            // The next look tells it.
            Err(Unsent::Full) => self.shape_due = Some(now + SHAPE_GAP),
            Err(Unsent::Gone) => return Ok(false),
        }
        Ok(true)
    }
}

/// The pointer's picture as it is sent; nothing where nothing of it can be seen.
fn draw(image: &GetCursorImageReply) -> Option<Shape> {
    let (width, height) = (usize::from(image.width), usize::from(image.height));
    let pixels = image.cursor_image.get(..width.checked_mul(height)?)?;
    if pixels.iter().all(|pixel| pixel >> 24 == 0) {
        return None;
    }
    let step = width.max(height).div_ceil(SIDE_MAX).max(1);
    let mut bytes = Vec::with_capacity(pixels.len() * 4);
    for row in pixels.chunks_exact(width).step_by(step) {
        for pixel in row.iter().step_by(step) {
            let [blue, green, red, alpha] = pixel.to_le_bytes();
            // X keeps colours already made weaker by how much shows through; PNG does not.
            let full = |colour: u8| match alpha {
                0 => 0,
                _ => u8::try_from((u32::from(colour) * 255 + u32::from(alpha) / 2) / u32::from(alpha)).unwrap_or(255),
            };
            bytes.extend([full(red), full(green), full(blue), alpha]);
        }
    }
    let side = |pixels: usize| u16::try_from(pixels.div_ceil(step)).unwrap_or(u16::MAX);
    let (w, h) = (side(width), side(height));
    let spot = |at: u16| usize::from(at) / step;
    let spot = |at: u16, size: u16| u16::try_from(spot(at)).unwrap_or(0).min(size.saturating_sub(1));
    let hot = (spot(image.xhot, w), spot(image.yhot, h));
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, w.into(), h.into());
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&bytes)).ok()?;
    Some(Shape { x: image.x, y: image.y, w, h, hot, png: STANDARD.encode(file) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{CONTROL_BYTES_MAX, Tell};

    fn image(width: u16, height: u16, cursor_image: Vec<u32>) -> GetCursorImageReply {
        GetCursorImageReply { width, height, xhot: width / 2, yhot: height, cursor_image, ..Default::default() }
    }

    #[test]
    fn a_pointer_is_a_picture_with_its_colours_back() {
        let shape = draw(&image(2, 1, vec![0x8040_0020, 0])).unwrap();
        assert_eq!((shape.w, shape.h, shape.hot), (2, 1, (1, 0)));
        let file = STANDARD.decode(shape.png).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; 8];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, [128, 0, 64, 128, 0, 0, 0, 0]);
    }

    #[test]
    fn nothing_to_see_is_nothing() {
        assert_eq!(draw(&image(2, 2, vec![0x00ff_ffff; 4])), None);
        assert_eq!(draw(&image(0, 0, vec![])), None);
        // A server that says less than it announces.
        assert_eq!(draw(&image(200, 200, vec![u32::MAX; 7])), None);
    }

    #[test]
    fn the_largest_pointer_fits_its_message() {
        let noise = |side: u32| (0..side * side).map(|i| i.wrapping_mul(2_654_435_761).rotate_left(i) | 0xff << 24);
        for side in [95u16, 96, 97, 500] {
            let shape = draw(&image(side, side, noise(u32::from(side)).collect())).unwrap();
            assert!(shape.w <= 96 && shape.hot.1 < shape.h, "{shape:?}");
            let text = serde_json::to_vec(&Tell::Cursor { hidden: None, shape: Some(shape) }).unwrap();
            assert!(text.len() <= CONTROL_BYTES_MAX, "{}", text.len());
        }
    }
}
