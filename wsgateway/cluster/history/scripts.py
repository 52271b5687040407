"""The Lua scripts of a history in Redis, and the bytes of the commands that run them. No I/O."""

import hashlib
from zlib import crc32

APPEND = """
-- KEYS 1 records 2 meta 3 offsets by key 4 idempotency key
-- ARGV 1 idempotency s or '' 2 size 3 ttl ms or '' 4 meta ttl ms or '' 5 all|last 6 topic 7 epoch if new 8 key 9 record
local records, meta, offsets = KEYS[1], KEYS[2], KEYS[3]
local size, ttl, keep, record = tonumber(ARGV[2]), ARGV[3], ARGV[5], ARGV[9]
local function expire(key, ms)
  if ms == '' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ms) end
end
if ARGV[1] ~= '' then
  local first = redis.call('HMGET', KEYS[4], 'o', 'e')
  if first[1] then return {tonumber(first[1]), first[2], 0} end
end
local known = redis.call('HMGET', meta, 'e', 'k', 'n', 'f')
local epoch, count = known[1], tonumber(known[3] or 0)
if not epoch or known[2] ~= keep then
  epoch, count, known[4] = ARGV[7], 0, false
  redis.call('HSET', meta, 'e', epoch, 'k', keep, 'o', 0, 'n', 0, 'f', 0)
  redis.call('UNLINK', records, offsets)
end
local offset = redis.call('HINCRBY', meta, 'o', 1)
local text = string.format('%.0f', offset)
expire(meta, ARGV[4])
if keep == 'all' then
  if redis.call('RPUSH', records, record) > size then redis.call('LTRIM', records, -size, -1) end
else
  local floor = known[4]
  if redis.call('ZCARD', offsets) ~= count or redis.call('HLEN', records) ~= count then
    redis.call('UNLINK', records, offsets)                  -- some have expired or were evicted
    count, floor = 0, string.format('%.0f', offset - 1)
  end
  count = count + redis.call('HSET', records, ARGV[8], text .. '\\n' .. record)
  redis.call('ZADD', offsets, text, ARGV[8])
  while count > size do
    local oldest = redis.call('ZPOPMIN', offsets)
    redis.call('HDEL', records, oldest[1])
    count, floor = count - 1, oldest[2]
  end
  redis.call('HSET', meta, 'n', count, 'f', floor or 0)
  expire(offsets, ttl)
end
expire(records, ttl)
redis.call('PUBLISH', ARGV[6], string.format('%.0f', offset - 1) .. ' ' .. text .. ' ' .. epoch .. '\\n' .. record)
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[4], 'o', text, 'e', epoch)
  redis.call('EXPIRE', KEYS[4], ARGV[1])
end
return {offset, epoch, 1}
"""
"""Add a record and publish it; return its offset, its epoch, and 1 if it is new.

`meta` has the epoch `e`, the newest offset `o`, and the `keep` that the records are for, `k`. If it was lost or `keep`
has changed, the channel gets a new epoch. With `last`, it also has the number `n` of records, and the offset `f` above
which no record is missing. So records that were evicted can only look too few, never wrong.
"""

READ = """
-- KEYS 1 records 2 meta 3 offsets by key   ARGV 1 above or '' 2 most 3 max bytes 4 meta ttl ms or '' 5 epoch 6 all|last
local records, meta, offsets = KEYS[1], KEYS[2], KEYS[3]
local most, left, keep = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[6]
local known = redis.call('HMGET', meta, 'e', 'o', 'k', 'n', 'f')
if not known[1] or known[3] ~= keep then
  redis.call('HSET', meta, 'e', ARGV[5], 'k', keep, 'o', 0, 'n', 0, 'f', 0)
  redis.call('UNLINK', records, offsets)
  known = {ARGV[5], '0', keep, '0', '0'}
end
if ARGV[4] == '' then redis.call('PERSIST', meta) else redis.call('PEXPIRE', meta, ARGV[4]) end
local top, above = tonumber(known[2]), tonumber(ARGV[1])
local rows, start, count, from, names = {}, top, 0, 0, nil
if keep == 'all' then
  count = redis.call('LLEN', records)
  start = top - count
  if above then from = math.min(count, math.max(0, above - start)) else from = math.max(0, count - most) end
  start = start + from
elseif redis.call('ZCARD', offsets) == tonumber(known[4]) and redis.call('HLEN', records) == tonumber(known[4]) then
  start = tonumber(known[5])
  if above then
    names = redis.call('ZRANGEBYSCORE', offsets, '(' .. ARGV[1], '+inf', 'LIMIT', 0, most)
    start = math.min(top, math.max(start, above))
  else
    names = most > 0 and redis.call('ZRANGE', offsets, -most, -1) or {}
    if #names < tonumber(known[4]) then start = -1 end       -- known when the first row is
  end
  count = #names
end
local past = math.min(count, from + most)                   -- backwards, so that the oldest ones are left out
while past > from and left > 0 do
  local low, part = math.max(from, past - 50), nil
  if names then part = redis.call('HMGET', records, unpack(names, low + 1, past))
  else part = redis.call('LRANGE', records, low, past - 1) end
  while past > low and left > 0 do
    local row = part[past - low]
    left = left - #row
    if left > 0 or #rows == 0 then rows[#rows + 1], past = row, past - 1 end
  end
end
if #rows > 0 and names and (start < 0 or past > from) then
  start = tonumber(string.match(rows[#rows], '^%d+')) - 1
elseif start < 0 then start = top
elseif not names then start = start + past - from end
return {known[1], known[2], string.format('%.0f', start), rows}
"""
"""Return the epoch, the newest offset, the offset above which no record is missing, and the records, newest first."""

RENEW = """
-- KEYS 1 meta   ARGV 1 the broken epoch 2 another
if redis.call('HGET', KEYS[1], 'e') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'e', ARGV[2])
return 1
"""

PROBE = """
-- KEYS 1 a list 2 a hash 3 a sorted set   ARGV 1 topic
local list, hash, set, faults = KEYS[1], KEYS[2], KEYS[3], {}
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err and not string.find(answer.err, 'OOM ', 1, true) then
    faults[#faults + 1] = string.lower((...))
    faults[#faults + 1] = answer.err
  end
end
try('HSET', hash, 'o', 0)
try('HINCRBY', hash, 'o', 1)
try('HMGET', hash, 'o')
try('HGET', hash, 'o')
try('HLEN', hash)
try('HDEL', hash, 'f')
try('PEXPIRE', hash, 1000)
try('EXPIRE', hash, 1)
try('PERSIST', hash)
try('RPUSH', list, '')
try('LTRIM', list, -1, -1)
try('LLEN', list)
try('LRANGE', list, 0, 0)
try('ZADD', set, 1, '')
try('ZCARD', set)
try('ZRANGE', set, 0, 0)
try('ZRANGEBYSCORE', set, 0, 0)
try('ZPOPMIN', set)
try('UNLINK', list, hash, set)
try('PUBLISH', ARGV[1], '')
return faults
"""
"""Use every command of the scripts once, so that no script fails halfway because the user may not run one of them.
Return each that has failed, and its error."""


def bulk(value: bytes) -> bytes:
    """Return one argument of a command, as Redis reads it."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def command(*arguments: bytes) -> bytes:
    """Return one command, as Redis reads it."""
    return b"*%d\r\n%b" % (len(arguments), b"".join(map(bulk, arguments)))


class Script:
    """A script with a fixed number of arguments. A command begins with `head`; if Redis lacks the script, `full`."""

    def __init__(self, text: str, *, keys: int, arguments: int) -> None:
        code = text.strip().encode()
        sha = hashlib.sha1(code, usedforsecurity=False).hexdigest().encode()
        count, keys_of = b"*%d\r\n" % (3 + keys + arguments), bulk(b"%d" % keys)
        self.head = count + bulk(b"EVALSHA") + bulk(sha) + keys_of
        self.full = count + bulk(b"EVAL") + bulk(code) + keys_of

    def command(self, *arguments: bytes) -> bytes:
        """Return the command that runs the script with these keys and arguments."""
        return self.head + b"".join(map(bulk, arguments))

    def in_full(self, command: bytes) -> bytes:
        """Return a command that also loads the script."""
        return self.full + command[len(self.head) :]


append_script = Script(APPEND, keys=4, arguments=9)
read_script = Script(READ, keys=3, arguments=6)
renew_script = Script(RENEW, keys=1, arguments=2)
probe_script = Script(PROBE, keys=3, arguments=1)

SLOTS = 128
"""Groups of channels. Redis Cluster keeps the keys of one group on the same server."""


def keys_of(gateway: str, channel: str) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the keys of the records, of the meta data, and of the offsets, and the beginning of idempotency keys."""
    name = channel.encode()
    begin = f"wsgateway:{{{crc32(name) % SLOTS}}}:{gateway}".encode()
    records, meta, offsets, idempotency = (b"%b:%b:%b" % (begin, letter, name) for letter in (b"h", b"m", b"z", b"i"))
    return records, meta, offsets, idempotency + b" "


def probe_of(gateway: str) -> bytes:
    """Return the command that runs the probe, with keys and a topic that no channel has."""
    topic = f"wsgateway.ch.{gateway}.%20".encode()
    return probe_script.in_full(probe_script.command(*keys_of(gateway, " ")[:3], topic))
