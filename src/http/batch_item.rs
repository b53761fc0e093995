//! Turns one item of a batch into a notification, and a receipt into its answer.

use serde::Serialize;

use super::notify::wished;
use crate::domain::{NewNotification, NotificationId, Seq, ServiceCaller};
use crate::log::appender::Receipt;
use crate::wire::notify::NotifyBody;
use crate::wire::server_frame::timestamp;

/// The outcome of one notification.
#[derive(Serialize)]
pub struct BatchItem {
    seq: Seq,
    id: NotificationId,
    created_at: String,
    duplicate: bool,
}

impl From<Receipt> for BatchItem {
    fn from(Receipt { seq, id, created_at, duplicate }: Receipt) -> Self {
        Self { seq, id, created_at: timestamp(created_at), duplicate }
    }
}

/// Turns an item into a notification. An item without a key gets one made of the batch's key and the item's index.
pub fn wished_item(mut item: NotifyBody, at: usize, batch_key: Option<&str>, caller: &ServiceCaller) -> NewNotification {
    if item.idempotency_key.is_none() {
        item.idempotency_key = batch_key.map(|key| format!("{key}/{at}"));
    }
    wished(item, caller)
}
