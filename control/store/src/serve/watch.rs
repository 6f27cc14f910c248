use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::{Instant, interval_at};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{MAX_OVERHEAD, MAX_REQUEST, Service};
use crate::disk::{Identity, random};
use crate::proto::etcdserverpb::watch_server::Watch;
use crate::proto::etcdserverpb::{WatchRequest, WatchResponse};
use crate::watchers::{OUTBOX, Outgoing};

/// An answer that is at least so long is cut, if its watcher agreed to that. etcd's.
const FRAGMENT: usize = MAX_REQUEST + MAX_OVERHEAD; // bytes

#[tonic::async_trait]
impl Watch for Service {
    type WatchStream = Answers;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Answers>, Status> {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let id = self.streams.fetch_add(1, Ordering::Relaxed);
        let engine = self.engine.clone();
        let opened = outbox.clone();
        engine.watchers(move |_, watchers| watchers.open(id, opened));
        let mut requests = request.into_inner();
        let mut progress = interval_at(Instant::now() + self.progress, jittered(self.progress));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    request = requests.message() => {
                        let Ok(Some(request)) = request else { break };
                        // Its answer has a place before it is looked at, so no answer is ever lost or kept aside.
                        let Ok(permit) = outbox.clone().reserve_owned().await else { break };
                        engine.watchers(move |state, watchers| watchers.request(state, id, request, permit));
                    }
                    _ = progress.tick() => engine.watchers(move |state, watchers| watchers.progress(state, id)),
                    () = outbox.closed() => break,
                }
            }
            engine.watchers(move |_, watchers| watchers.close(id));
        });
        Ok(Response::new(Answers { inbox, fragments: VecDeque::new(), identity: self.identity }))
    }
}

/// Up to a tenth more, so that streams that were opened at once are not told at once.
fn jittered(interval: Duration) -> Duration {
    let tenth = u64::try_from(interval.as_millis() / 10).unwrap_or(u64::MAX).max(1);
    interval + Duration::from_millis(random().unsigned_abs() % tenth)
}

/// What a stream says, cut where it has to be, and signed.
pub(crate) struct Answers {
    inbox: Receiver<Outgoing>,
    fragments: VecDeque<WatchResponse>,
    identity: Identity,
}

impl Stream for Answers {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(mut response) = self.fragments.pop_front() {
                self.identity.sign(&mut response.header);
                return Poll::Ready(Some(Ok(response)));
            }
            let Some(Outgoing { response, fragment }) = std::task::ready!(self.inbox.poll_recv(context)) else {
                return Poll::Ready(None);
            };
            match fragment {
                true => self.fragments.extend(cut(response, FRAGMENT)),
                false => self.fragments.push_back(response),
            }
        }
    }
}

/// Parts that are shorter than `longest`, or have one event.
fn cut(response: WatchResponse, longest: usize) -> Vec<WatchResponse> {
    if response.encoded_len() < longest || response.events.len() < 2 {
        return vec![response];
    }
    let mut events = response.events.into_iter().peekable();
    let frame = WatchResponse { events: Vec::new(), ..response };
    let mut parts = Vec::new();
    while events.peek().is_some() {
        let mut part = WatchResponse { fragment: true, ..frame.clone() };
        let mut length = part.encoded_len();
        while let Some(event) = events.peek() {
            let event = event.encoded_len();
            // Its key, and its length as a varint.
            length += 1 + prost::length_delimiter_len(event) + event;
            if length >= longest && !part.events.is_empty() {
                break;
            }
            part.events.extend(events.next());
        }
        parts.push(part);
    }
    if let Some(last) = parts.last_mut() {
        last.fragment = false;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb::{Event, KeyValue};

    #[test]
    fn parts_are_short_and_whole() {
        let event = |size| Event {
            kv: Some(KeyValue { value: vec![7; size].into(), ..KeyValue::default() }),
            ..Event::default()
        };
        let events: Vec<Event> = [100, 100, 900, 10, 10, 2000, 10, 300, 300, 300].map(event).into();
        let response = WatchResponse { watch_id: 3, events: events.clone(), ..WatchResponse::default() };
        let parts = cut(response.clone(), 1000);
        assert!(parts.len() > 3);
        for part in &parts {
            assert!(part.encoded_len() < 1000 || part.events.len() == 1, "{}", part.encoded_len());
            assert_eq!(part.watch_id, 3);
        }
        let fragments: Vec<bool> = parts.iter().map(|part| part.fragment).collect();
        assert_eq!(fragments.iter().filter(|fragment| !**fragment).count(), 1);
        assert!(!fragments[fragments.len() - 1]);
        assert_eq!(parts.into_iter().flat_map(|part| part.events).collect::<Vec<_>>(), events);
        assert_eq!(cut(response.clone(), 1 << 20), [response]);
    }
}
