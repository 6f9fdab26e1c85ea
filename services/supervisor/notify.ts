// Tells the service manager that we serve, or stop. Node has no datagram sockets of the unix family, so libc is asked.
import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const socket = libc.func('int socket(int domain, int type, int protocol)')
const sendto = libc.func(
  'long sendto(int fd, const void *data, size_t size, int flags, const void *address, uint32_t length)',
)
const close = libc.func('int close(int fd)')

const AF_UNIX = 1
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2000000

/** Does nothing unless the service manager set $NOTIFY_SOCKET. Answers whether it was told. Source: sd_notify(3). */
export function notifyServiceManager(message: string, path = process.env.NOTIFY_SOCKET): boolean {
  if (!path) return false
  const fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
  if (fd < 0) return false
  const data = Buffer.from(message)
  const address = socketAddress(path)
  const sent = Number(sendto(fd, data, data.length, 0, address, address.length))
  close(fd)
  return sent === data.length
}

/** A name in the abstract namespace begins with "@" in the variable, with a zero byte in the address. */
function socketAddress(path: string): Buffer {
  const isAbstract = path.startsWith('@')
  const name = isAbstract ? Buffer.from(`\0${path.slice(1)}`) : Buffer.from(`${path}\0`)
  const family = Buffer.alloc(2)
  family.writeUInt16LE(AF_UNIX)
  return Buffer.concat([family, name])
}
