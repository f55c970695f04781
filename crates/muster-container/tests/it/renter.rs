//! A consumer that speaks the protocol by hand.

use muster_chain::keys::Wallet;
use muster_core::ids::{ContentHash, LeaseId};
use muster_core::lease::{End, LeaseTerms};
use muster_core::protocol::{JobSpec, ToConsumer, ToContainer};
use muster_core::units::TokenAmount;
use muster_core::voucher::{SignedVoucher, Voucher};
use muster_net::{Connection, FrameReader, FrameWriter, Peer, StreamKind};
use muster_wire::message::attach_bytes;
use muster_wire::message::files::{Outcome, Piece, Transfer};
use muster_wire::message::stdio::{Input, Output, Stream, Watch};

use crate::world::{PATIENCE, Running, World, dialler};

/// One lease and its control stream.
pub(crate) struct Renter {
    pub(crate) terms: LeaseTerms,
    pub(crate) session: Wallet,
    pub(crate) peer: Peer,
    pub(crate) connection: Connection,
    pub(crate) writer: FrameWriter,
    pub(crate) reader: FrameReader,
    /// The last voucher's amount.
    pub(crate) paid: TokenAmount,
}

/// What came out of a job.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) missed: u64,
}

impl Renter {
    /// Offers, pays the deposit, attaches and waits until the Container has seen it.
    pub(crate) async fn open(world: &World, container: &Running) -> Self {
        Self::open_with(world, container, |_| {}).await
    }

    pub(crate) async fn open_with(world: &World, container: &Running, change: impl FnOnce(&mut LeaseTerms)) -> Self {
        let session = Wallet::random();
        let mut terms = world.terms(container.id, &session);
        change(&mut terms);
        container.line.accept(&terms).await;
        world.deposit(&terms).await;
        let mut renter = Self::attach(terms, session, container).await;
        renter.hear(|m| matches!(m, ToConsumer::Open)).await;
        renter
    }

    /// Attaches over a new connection.
    pub(crate) async fn attach(terms: LeaseTerms, session: Wallet, container: &Running) -> Self {
        let peer = dialler().await;
        let connection = peer.connect(&container.addr).await.unwrap();
        let (mut reader, mut writer) = connection.open_bi(StreamKind::Lease).await.unwrap().framed().split();
        let proof = session.sign_message(&attach_bytes(terms.lease, container.id, peer.id()));
        writer.send(&ToContainer::Attach { lease: terms.lease, proof }).await.unwrap();
        let first: ToConsumer = reader.recv_within(PATIENCE).await.unwrap();
        assert!(matches!(first, ToConsumer::Attached { .. }), "{first:?}");
        Self { terms, session, peer, connection, writer, reader, paid: TokenAmount::ZERO }
    }

    pub(crate) async fn say(&mut self, message: ToContainer) {
        self.writer.send(&message).await.unwrap();
    }

    /// The next message for which `wanted` holds; others are passed over.
    pub(crate) async fn hear(&mut self, wanted: impl Fn(&ToConsumer) -> bool) -> ToConsumer {
        let found = async {
            loop {
                let message: ToConsumer = self.reader.recv().await.unwrap().expect("the Container goes on");
                if wanted(&message) {
                    return message;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the Container says what is awaited")
    }

    pub(crate) async fn go(&mut self, command: &[&str]) {
        self.go_with(command, false).await;
    }

    pub(crate) async fn go_with(&mut self, command: &[&str], stdin: bool) {
        let command = command.iter().map(ToString::to_string).collect();
        self.say(ToContainer::Go(JobSpec {
            command,
            env: vec![("GREETING".into(), "hello".into())],
            stdin,
            session: None,
            model: None,
        }))
        .await;
    }

    pub(crate) fn voucher(&self, world: &World, amount: TokenAmount) -> SignedVoucher {
        let voucher = Voucher { lease: self.terms.lease, amount, as_of_s: crate::world::now().secs() };
        world.client.vouchers().sign(&self.session, voucher)
    }

    /// Pays for so much running.
    pub(crate) async fn pay_for(&mut self, world: &World, ran_ms: u64) {
        self.paid = self.terms.rate_per_second.per_second_for_ms(ran_ms).min(self.terms.deposit);
        let voucher = self.voucher(world, self.paid);
        self.say(ToContainer::Paid(voucher)).await;
    }

    /// Pays whenever asked until the job is over, then what is still due. Gives how it ended and how long it ran.
    pub(crate) async fn pay_to_the_end(&mut self, world: &World) -> (End, u64) {
        loop {
            let heard = self.hear(|m| matches!(m, ToConsumer::Usage { .. } | ToConsumer::Ended { .. })).await;
            match heard {
                ToConsumer::Usage { ran_ms } => self.pay_for(world, ran_ms).await,
                ToConsumer::Ended { end, ran_ms } => {
                    if !end.is_interruption() {
                        self.pay_for(world, ran_ms).await;
                    }
                    return (end, ran_ms);
                }
                other => unreachable!("{other:?}"),
            }
        }
    }

    pub(crate) async fn settled(&mut self) -> (TokenAmount, TokenAmount, Option<[u8; 32]>) {
        match self.hear(|m| matches!(m, ToConsumer::Settled { .. })).await {
            ToConsumer::Settled { redeemed, refunded, tx } => (redeemed, refunded, tx),
            other => unreachable!("{other:?}"),
        }
    }

    /// Sends files as inputs.
    pub(crate) async fn upload(&self, files: &[(&str, &[u8])]) -> Outcome {
        let mut pieces = Vec::new();
        for (path, bytes) in files {
            let len = u64::try_from(bytes.len()).unwrap();
            pieces.push(Piece::File { path: (*path).to_owned(), len, executable: false });
            let chunks = bytes.chunks(muster_wire::message::files::CHUNK_LEN_MAX);
            pieces.extend(chunks.map(|chunk| Piece::Chunk(chunk.to_vec().try_into().unwrap())));
            pieces.push(Piece::End { hash: ContentHash(*blake3::hash(bytes).as_bytes()) });
        }
        let entries = u64::try_from(files.len()).unwrap();
        let bytes = files.iter().map(|(_, bytes)| u64::try_from(bytes.len()).unwrap()).sum();
        pieces.push(Piece::Done { entries, bytes, left_out: Vec::new() });
        self.send_pieces(pieces).await
    }

    pub(crate) async fn send_pieces(&self, pieces: Vec<Piece>) -> Outcome {
        let stream = self.connection.open_bi(StreamKind::Files).await.unwrap().framed();
        let (mut reader, mut writer) = stream.split();
        writer.send(&Transfer::Inputs { lease: self.terms.lease }).await.unwrap();
        let sending = async {
            for piece in pieces {
                if writer.send(&piece).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            outcome = reader.recv_within(PATIENCE) => outcome.unwrap(),
            () = sending => unreachable!(),
        }
    }

    /// Fetches outputs: files with their contents, by name, then what was left out; or why not.
    pub(crate) async fn outputs(&self) -> Result<(Vec<(String, Vec<u8>)>, Vec<String>), String> {
        let mut stream = self.connection.open_bi(StreamKind::Files).await.unwrap().framed();
        stream.send(&Transfer::Outputs { lease: self.terms.lease }).await.unwrap();
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        loop {
            match stream.recv_within::<Piece>(PATIENCE).await.unwrap() {
                Piece::Folder { .. } => {}
                Piece::File { path, .. } => files.push((path, Vec::new())),
                Piece::Chunk(bytes) => files.last_mut().unwrap().1.extend_from_slice(&bytes),
                Piece::End { hash } => {
                    assert_eq!(blake3::hash(&files.last().unwrap().1).as_bytes(), &hash.0);
                }
                Piece::Done { entries, bytes, left_out } => {
                    stream.send(&Outcome::Received { entries, bytes }).await.unwrap();
                    files.sort();
                    return Ok((files, left_out));
                }
                Piece::Abort { why } => return Err(why),
            }
        }
    }

    /// Watches and reads nothing.
    pub(crate) async fn stall(&self) -> muster_net::FramedStream {
        let mut stream = self.connection.open_bi(StreamKind::Job).await.unwrap().framed();
        let watch = Watch { lease: self.terms.lease, out_from: 0, err_from: 0, follow: true, stdin: false };
        stream.send(&watch).await.unwrap();
        stream
    }

    /// Reads both streams to their end, or what there is.
    pub(crate) async fn streams(&self, follow: bool) -> Streams {
        let mut stream = self.connection.open_bi(StreamKind::Job).await.unwrap().framed();
        let watch = Watch { lease: self.terms.lease, out_from: 0, err_from: 0, follow, stdin: false };
        stream.send(&watch).await.unwrap();
        read_streams(&mut stream.split().0).await
    }
}

/// Types something for the job, in pieces, and reads what comes out at the same time.
pub(crate) async fn talk(connection: &Connection, lease: LeaseId, typed: &[&[u8]]) -> Streams {
    let stream = connection.open_bi(StreamKind::Job).await.unwrap().framed();
    let (mut reader, mut writer) = stream.split();
    let watch = Watch { lease, out_from: 0, err_from: 0, follow: true, stdin: true };
    writer.send(&watch).await.unwrap();
    let typing = async {
        for piece in typed {
            writer.send(&Input::Data(piece.to_vec().try_into().unwrap())).await.unwrap();
        }
        writer.send(&Input::End).await.unwrap();
        writer.finish().await.unwrap();
    };
    tokio::join!(typing, read_streams(&mut reader)).1
}

async fn read_streams(reader: &mut FrameReader) -> Streams {
    let mut found = Streams::default();
    loop {
        match reader.recv_within::<Output>(PATIENCE).await.unwrap() {
            Output::Data { stream: Stream::Out, bytes } => found.out.push_str(&String::from_utf8_lossy(&bytes)),
            Output::Data { stream: Stream::Err, bytes } => found.err.push_str(&String::from_utf8_lossy(&bytes)),
            Output::Missed { count, .. } => found.missed += count,
            Output::End => return found,
        }
    }
}

/// Whether this machine can run jobs; says why not otherwise.
pub(crate) fn can_run_jobs() -> bool {
    crate::harness::host().is_some()
}
