// The NATS client, loaded when the relay first needs it. A module of our own stands between, because a bundle gives a
// dynamic import of a CommonJS package nothing but its default export.
export {
  AckPolicy,
  connect,
  createInbox,
  credsAuthenticator,
  DeliverPolicy,
  DiscardPolicy,
  headers,
  nanos,
  nkeyAuthenticator,
  RetentionPolicy,
  StorageType,
} from 'nats'
