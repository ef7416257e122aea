//! stub
use crate::{clock::*,config::Generation}; use std::sync::Arc; use tokio::sync::watch;
/// D.
pub struct Reloader{ tx: watch::Sender<Arc<Generation>> }
/// D.
#[derive(Clone)]
pub struct ReloadHandle{}
impl Reloader { /// N.
 pub fn new(_:std::path::PathBuf,g:Generation,_:Clock)->(Self,ReloadHandle,watch::Receiver<Arc<Generation>>){ let (tx,rx)=watch::channel(Arc::new(g)); (Self{tx}, ReloadHandle{}, rx) } /// R.
 pub async fn run(self,_:tokio_util::sync::CancellationToken){ std::future::pending::<()>().await; drop(self.tx) } }
impl ReloadHandle { /// N.
 pub async fn reload(&self)->String{"".into()} /// R.
 pub fn last(&self)->String{"".into()} /// R.
 pub fn generation(&self)->u64{1} }
