//! The latency meter: a program for live sessions that shows how fast they are, to people and to machines.
//!
//! It draws its clock into the picture as black and white cells, and below it the time at which the last key or button
//! reached it, so that whoever sees the picture knows how old it is, and how long an input took to show. A square flips at
//! each input. Positions count in a picture of 1280×720 and shrink with smaller ones.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use x11rb::connection::Connection;
use x11rb::errors::{ConnectionError, ReplyOrIdError};
use x11rb::protocol::Event;
use x11rb::protocol::xproto::{
    ConnectionExt as _, CreateGCAux, CreateWindowAux, EventMask, Gcontext, InputFocus, Pixmap, Rectangle, Window,
    WindowClass,
};
use x11rb::rust_connection::RustConnection;

use crate::wake::wait;

/// First argument with which the program must call [`meter_main`].
pub const METER: &str = "__latency";

/// Side of a cell, in a picture 1280 wide.
const CELL: u32 = 40;
/// Bits of the clock's milliseconds that are shown, and of their checksum.
const CLOCK_BITS: u32 = 20;
const CHECK_BITS: u32 = 4;
/// Cells in a row: the bits, then one white and one black to compare with.
const CELLS: u32 = CLOCK_BITS + CHECK_BITS + 2;
/// Side of the box that moves.
const BOX: u32 = 120;

const WHITE: u32 = 0x00ff_ffff;
const GROUND: u32 = 0x0020_3040;
const AMBER: u32 = 0x00e0_8020;

/// What is drawn beside the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Motion {
    /// A box that moves.
    Box,
    /// The whole lower part scrolls.
    Full,
}

/// Body of the program: draws on the display that `DISPLAY` names until it is gone. `args` may be `--fps N` and
/// `--motion box|full`.
///
/// # Errors
/// There is no display, or it went away.
pub fn meter_main(args: impl IntoIterator<Item = String>) -> io::Result<()> {
    let (mut fps, mut motion) = (60.0f64, Motion::Box);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.next().as_deref()) {
            ("--fps", Some(text)) => fps = text.parse().map_err(io::Error::other)?,
            ("--motion", Some("box")) => motion = Motion::Box,
            ("--motion", Some("full")) => motion = Motion::Full,
            _ => return Err(io::Error::other(format!("{arg}: use --fps N and --motion box or full"))),
        }
    }
    if !(1.0..=240.0).contains(&fps) {
        return Err(io::Error::other("--fps is from 1 to 240"));
    }
    let mut meter = Meter::open(motion).map_err(io::Error::other)?;
    meter.run(Duration::from_secs_f64(1.0 / fps)).map_err(io::Error::other)
}

/// The middle of the square that flips, in a picture of this width.
pub(crate) const fn square_at(width: usize) -> (usize, usize) {
    let cell = CELL as usize * width / 1280;
    (cell * 3 / 2, cell * 7 / 2)
}

struct Meter {
    connection: RustConnection,
    window: Window,
    back: Pixmap,
    ground: Pixmap,
    pen: Gcontext,
    width: u16,
    height: u16,
    motion: Motion,
    frame: u32,
    events: u32,
    event_ms: u32,
    flipped: bool,
    at: (i32, i32),
    step: (i32, i32),
}

impl Meter {
    fn open(motion: Motion) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (connection, screen) = RustConnection::connect(None)?;
        let screen = connection.setup().roots.get(screen).ok_or("the display has no screen")?;
        let (root, depth, visual) = (screen.root, screen.root_depth, screen.root_visual);
        let (width, height) = (screen.width_in_pixels, screen.height_in_pixels);
        let window = connection.generate_id()?;
        let mask = EventMask::BUTTON_PRESS | EventMask::KEY_PRESS | EventMask::EXPOSURE;
        let aux = CreateWindowAux::new().override_redirect(1).background_pixel(GROUND).event_mask(mask);
        let class = WindowClass::INPUT_OUTPUT;
        connection.create_window(depth, window, root, 0, 0, width, height, 0, class, visual, &aux)?;
        connection.map_window(window)?;
        connection.set_input_focus(InputFocus::PARENT, window, x11rb::CURRENT_TIME)?;
        let (back, ground, pen) = (connection.generate_id()?, connection.generate_id()?, connection.generate_id()?);
        connection.create_pixmap(depth, back, window, width, height)?;
        connection.create_pixmap(depth, ground, window, width, height.saturating_mul(2))?;
        connection.create_gc(pen, window, &CreateGCAux::new().graphics_exposures(0))?;
        let meter = Self {
            connection,
            window,
            back,
            ground,
            pen,
            width,
            height,
            motion,
            frame: 0,
            events: 0,
            event_ms: 0,
            flipped: false,
            at: (300, 400),
            step: (5, 3),
        };
        meter.paint_ground()?;
        Ok(meter)
    }

    /// Length in a picture of 1280×720, in this one.
    fn scaled(&self, length: u32) -> u16 {
        u16::try_from(length * u32::from(self.width) / 1280).unwrap_or(u16::MAX)
    }

    fn fill(&self, to: Pixmap, colour: u32, rectangles: &[Rectangle]) -> Result<(), ConnectionError> {
        self.connection.change_gc(self.pen, &x11rb::protocol::xproto::ChangeGCAux::new().foreground(colour))?;
        self.connection.poly_fill_rectangle(to, self.pen, rectangles)?;
        Ok(())
    }

    /// Panels and lines of what looks like text, twice the picture's height, for scrolling.
    fn paint_ground(&self) -> Result<(), ReplyOrIdError> {
        let full = Rectangle { x: 0, y: 0, width: self.width, height: self.height.saturating_mul(2) };
        self.fill(self.ground, GROUND, &[full])?;
        let mut random = 12_345u32;
        let mut draw = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random >> 24
        };
        for line in 0..u32::from(self.height) * 2 / 18 {
            let y = i16::try_from(line * 18).unwrap_or(i16::MAX);
            let panel = Rectangle { x: 0, y, width: self.width, height: 17 };
            self.fill(self.ground, 0x0020_2830 + (line % 3) * 0x0010_1008, &[panel])?;
            let (mut words, mut x) = (Vec::new(), 8u32);
            while x + 20 < u32::from(self.width) {
                for letter in 0..3 + draw() % 9 {
                    let height = u16::try_from(5 + draw() % 6).unwrap_or(5);
                    let left = i16::try_from(x + letter * 7).unwrap_or(i16::MAX);
                    let top = y.saturating_add(14).saturating_sub_unsigned(height);
                    words.push(Rectangle { x: left, y: top, width: 3, height });
                }
                x += 40 + draw() % 60;
            }
            self.fill(self.ground, 0x00c8_d0c0, &words)?;
        }
        self.copy(self.ground, self.back, 0, 0, 0, self.width, self.height)?;
        self.copy(self.back, self.window, 0, 0, 0, self.width, self.height)?;
        self.connection.flush()?;
        Ok(())
    }

    /// Copies to the same place, or from another height.
    #[allow(clippy::too_many_arguments, reason = "a rectangle, where it comes from and where it goes")]
    fn copy(&self, from: u32, to: u32, x: i16, from_y: i16, to_y: i16, w: u16, h: u16) -> Result<(), ConnectionError> {
        self.connection.copy_area(from, to, self.pen, x, from_y, x, to_y, w, h)?;
        Ok(())
    }

    fn run(&mut self, every: Duration) -> Result<(), ConnectionError> {
        let mut next = Instant::now();
        loop {
            let mut input = false;
            while let Some(event) = self.connection.poll_for_event()? {
                match event {
                    Event::ButtonPress(_) | Event::KeyPress(_) => {
                        self.event_ms = clock_ms();
                        self.events = self.events.wrapping_add(1);
                        self.flipped = !self.flipped;
                        input = true;
                    }
                    Event::Expose(_) => self.copy(self.back, self.window, 0, 0, 0, self.width, self.height)?,
                    _ => {}
                }
            }
            let now = Instant::now();
            if !input && now < next {
                self.connection.flush()?;
                let fd = std::os::fd::AsFd::as_fd(self.connection.stream());
                wait([fd], Some(next - now)).map_err(ConnectionError::IoError)?;
                continue;
            }
            self.draw(!input)?;
            if !input {
                next += every;
                if next + Duration::from_millis(200) < now {
                    next = now;
                }
            }
        }
    }

    /// One frame. An input's own frame shows the input at once and moves nothing.
    fn draw(&mut self, moves: bool) -> Result<(), ConnectionError> {
        let cell = self.scaled(CELL);
        self.row(0, clock_ms())?;
        self.row(1, self.event_ms)?;
        let square = Rectangle { x: 0, y: cell.cast_signed() * 2, width: cell * 3, height: cell * 3 };
        self.fill(self.back, if self.flipped { WHITE } else { 0 }, &[square])?;
        let text = format!("inputs {}   frame {}", self.events, self.frame);
        let at = (cell.cast_signed() * 4, cell.cast_signed() * 4);
        let _ = self.connection.image_text8(self.back, self.pen, at.0, at.1, text.as_bytes());
        self.copy(self.back, self.window, 0, 0, 0, cell * u16::try_from(CELLS).unwrap_or(26), cell * 5)?;
        if moves {
            self.frame = self.frame.wrapping_add(1);
            match self.motion {
                Motion::Box => self.move_box()?,
                Motion::Full => self.scroll(cell * 5)?,
            }
        }
        self.connection.flush()
    }

    /// Milliseconds as cells, the lowest bit first, with a checksum of their nibbles.
    fn row(&self, row: u16, ms: u32) -> Result<(), ConnectionError> {
        let value = coded(ms);
        let cell = self.scaled(CELL);
        let y = (cell * row).cast_signed();
        let at = |column: u32| {
            let x = (cell * u16::try_from(column).unwrap_or(0)).cast_signed();
            Rectangle { x, y, width: cell, height: cell }
        };
        let white = |column: &u32| *column == CELLS - 2 || (*column < CELLS - 2 && value >> column & 1 == 1);
        let (bright, dark): (Vec<u32>, Vec<u32>) = (0..CELLS).partition(|column| white(column));
        self.fill(self.back, WHITE, &bright.into_iter().map(at).collect::<Vec<_>>())?;
        self.fill(self.back, 0, &dark.into_iter().map(at).collect::<Vec<_>>())
    }

    fn move_box(&mut self) -> Result<(), ConnectionError> {
        let side = self.scaled(BOX);
        let (x, y) = self.at;
        let room = (i32::from(self.width) - i32::from(side) - 10, i32::from(self.height) - i32::from(side) - 10);
        let top = i32::from(self.scaled(CELL)) * 5 + 10;
        let next = (x + self.step.0, y + self.step.1);
        if next.0 < 10 || next.0 > room.0 {
            self.step.0 = -self.step.0;
        }
        if next.1 < top || next.1 > room.1 {
            self.step.1 = -self.step.1;
        }
        self.at = (next.0.clamp(0, room.0.max(0)), next.1.clamp(0, room.1.max(0)));
        let short = |v: i32| i16::try_from(v).unwrap_or(0);
        self.copy(self.ground, self.back, short(x), short(y), short(y), side, side)?;
        let now = Rectangle { x: short(self.at.0), y: short(self.at.1), width: side, height: side };
        self.fill(self.back, AMBER + (self.frame & 63) * 2, &[now])?;
        let (left, upper) = (x.min(self.at.0), y.min(self.at.1));
        let grown = |a: i32, b: i32| side.saturating_add(u16::try_from(a.abs_diff(b)).unwrap_or(0));
        let (w, h) = (grown(x, self.at.0), grown(y, self.at.1));
        self.copy(self.back, self.window, short(left), short(upper), short(upper), w, h)
    }

    fn scroll(&self, top: u16) -> Result<(), ConnectionError> {
        let offset = i16::try_from(self.frame * 3 % u32::from(self.height.max(1))).unwrap_or(0);
        let rest = self.height.saturating_sub(top);
        self.copy(self.ground, self.back, 0, offset, top.cast_signed(), self.width, rest)?;
        self.copy(self.back, self.window, 0, top.cast_signed(), top.cast_signed(), self.width, rest)
    }
}

/// The clock's lowest bits, with their checksum above them.
fn coded(ms: u32) -> u32 {
    let value = ms & ((1 << CLOCK_BITS) - 1);
    let sum = (0..CLOCK_BITS).step_by(4).fold(5u32, |sum, at| sum + (value >> at & 15));
    value | (sum & 15) << CLOCK_BITS
}

/// Milliseconds since 1970, as far as they are shown.
fn clock_ms() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_millis() & u128::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_holds_the_clock_and_its_sum() {
        assert_eq!(coded(0), 5 << 20);
        assert_eq!(coded(0xf_ffff), 0xf_ffff);
        assert_eq!(coded(0x1234_5678) & 0xf_ffff, 0x4_5678);
    }

    #[test]
    fn wrong_arguments_are_named() {
        let run = |args: &[&str]| meter_main(args.iter().map(ToString::to_string)).unwrap_err().to_string();
        assert!(run(&["--fps", "0"]).contains("1 to 240"));
        assert!(run(&["--motion", "up"]).contains("box or full"));
        assert!(run(&["--fps"]).contains("--fps N"));
    }
}
