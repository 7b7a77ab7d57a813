//! Gateway tokens: which session a running container speaks for. Kept here so that containers
//! adopted after a restart go on working; a token goes when its run ends.

use jiff::Timestamp;

use super::{Result, Store};

table! {
    /// A row of `gateway_tokens`.
    pub struct GatewayToken in "gateway_tokens" as "gateway token", key 1 {
        token: String,
        session_id: String,
        container_name: String,
        created_at: Timestamp,
    }
}

impl Store {
    pub fn create_gateway_token(&self, token: &GatewayToken) -> Result<()> {
        self.insert(token)
    }

    pub fn find_gateway_token(&self, token: &str) -> Result<Option<GatewayToken>> {
        self.find("WHERE token = ?1", &[&token])
    }

    /// The token of a running container.
    pub fn find_gateway_token_of(&self, container_name: &str) -> Result<Option<GatewayToken>> {
        self.find("WHERE container_name = ?1", &[&container_name])
    }

    pub fn gateway_tokens(&self) -> Result<Vec<GatewayToken>> {
        self.all("ORDER BY rowid", &[])
    }

    pub fn delete_gateway_tokens(&self, container_name: &str) -> Result<()> {
        self.delete::<GatewayToken>("WHERE container_name = ?1", &[&container_name])?;
        Ok(())
    }
}
