//! A live session's stream: players' offers in, answers and news out.

use muster_net::{NetError, Stream};
use muster_wire::message::session::{FromSession, OFFERS_MAX, SessionOpen, ToSession};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::{Guest, House, PROOF_WITHIN, SEND_WITHIN};

impl House {
    pub(super) async fn session(&self, guest: &Guest, stream: Stream) -> Result<(), NetError> {
        let (mut reader, mut writer) = stream.framed().split();
        let open: SessionOpen = reader.recv_within(PROOF_WITHIN).await?;
        if !guest.has_proven(open.lease).await {
            guest.refuse_proof();
            return Ok(());
        }
        let Some(place) = self.jobs.get(open.lease) else {
            writer.send_within(&FromSession::Over, SEND_WITHIN).await?;
            return writer.finish().await;
        };
        let (standing, mut news) = place.live().join();
        // Room for every answer that can be due, and as many refusals.
        let (reply, mut answers) = mpsc::channel(2 * OFFERS_MAX);
        let mut over = standing.contains(&FromSession::Over);
        for message in standing {
            writer.send_within(&message, SEND_WITHIN).await?;
        }
        while !over {
            let message = tokio::select! {
                asked = reader.recv::<ToSession>() => match asked? {
                    Some(message) => {
                        place.live().take(message, &reply);
                        continue;
                    }
                    None => return writer.finish().await,
                },
                Some(answer) = answers.recv() => answer,
                told = news.recv() => match told {
                    Ok(message) => message,
                    // Figures of the last seconds, most likely; what is lost is not sent again.
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => FromSession::Over,
                },
                () = place.gone().cancelled() => FromSession::Over,
            };
            over = message == FromSession::Over;
            if over {
                // Refusals of offers that came too late stand before the end.
                while let Ok(answer) = answers.try_recv() {
                    writer.send_within(&answer, SEND_WITHIN).await?;
                }
            }
            writer.send_within(&message, SEND_WITHIN).await?;
        }
        writer.finish().await
    }
}
