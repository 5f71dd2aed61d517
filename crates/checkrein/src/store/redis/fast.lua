-- One rate limit on one record: counts calls behind its head while they surely fit. The head counts calls that may have
-- left the window since: whoever does not fit is decided by the core, which knows.
-- KEYS     the record, the calls counted behind it
-- ARGV     earliest, latest (microseconds; empty: the time is given), how many calls, the most there may be,
--          the most behind the head, a version that nobody has, the call as it is kept, when both expire (or nothing)
-- returns  the time, when all are counted; otherwise none is, and it returns as a commit does
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function refuse(why)
  local head = redis.call('GET', KEYS[1])
  local flags = head and string.byte(head, 10) or 0
  return {why, now, head, flags % 2 == 1 and redis.call('HGETALL', KEYS[1] .. ':h'),
    flags >= 2 and redis.call('LRANGE', KEYS[2], 0, -1)}
end

if ARGV[1] ~= '' and (now < tonumber(ARGV[1]) or now > tonumber(ARGV[2])) then return refuse(1) end
local head = redis.call('GETRANGE', KEYS[1], 0, 17)
-- Format 1, and a version that is no claim.
if #head < 18 or string.byte(head, 1) ~= 1 or string.byte(head, 2) == 255 then return refuse(2) end
local flags, a, b, c, d, w, x, y, z = string.byte(head, 10, 18)
-- The count stands there twice: a damaged one counts nothing.
if flags < 2 or a + w ~= 255 or b + x ~= 255 or c + y ~= 255 or d + z ~= 255 then return refuse(2) end
local counted, behind = a * 16777216 + b * 65536 + c * 256 + d, redis.call('LLEN', KEYS[2])
local calls = tonumber(ARGV[3])
if counted + behind + calls > tonumber(ARGV[4]) or behind + calls > tonumber(ARGV[5]) then return refuse(2) end
if calls == 1 then
  redis.call('RPUSH', KEYS[2], ARGV[7])
else
  local all = {}
  for i = 1, calls do all[i] = ARGV[7] end
  redis.call('RPUSH', KEYS[2], unpack(all))
end
-- The first one ends every try that knows nothing of calls behind the head.
if behind == 0 then redis.call('SETRANGE', KEYS[1], 1, ARGV[6]) end
if ARGV[8] ~= '' then
  redis.call('PEXPIREAT', KEYS[1], ARGV[8])
  redis.call('PEXPIREAT', KEYS[2], ARGV[8])
end
return now
