//! The seed payload, byte for byte.

use crate::support::{Receiver, Sidehook, events};

#[tokio::test]
async fn the_seed_payload_arrives_byte_for_byte() {
    let receiver = Receiver::start().await;
    let params = "events: [conversation.completed]\n\
                  params: {conversation-analysis: analysis.conversation-analysis, data: event.data, event: event.type}";
    let sidehook = Sidehook::builder().webhook("crm", &receiver.webhook("/crm", params)).start().await;
    let answer = sidehook.send(&events::seed()).await;
    assert_eq!(answer, serde_json::json!({"accepted": 1, "duplicates": 0, "ids": ["evt_seed"]}));
    let request = receiver.wait("/crm", 1).await.remove(0);
    // serde_json's map is sorted, so printing sorts the keys and drops nothing else.
    assert_eq!(request.json().to_string(), include_str!("fixtures/seed.payload.json"));
}
