-- KEYS     the records, then every other key that is written
-- ARGV     earliest, latest (microseconds; empty: the time is given), records, caps, a claim (or nothing),
--          the version of each record (empty: there is none; after it how many calls are counted behind its head, if any),
--          for each cap the index's key and the most it may have (or `there`: the key must exist),
--          then the writes: for each the number of arguments, the command, its key, the arguments
-- returns  the time, when everything was written; otherwise nothing was, and it returns why, the time, and every record:
--          1 the time is not within the bounds, 2 a version is another one, 2 + i the i-th index is full
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local records, caps = tonumber(ARGV[3]), tonumber(ARGV[4])

-- A claim is taken unless another holds that is not older than 20 ms: from then on only its owner's version fits.
local function take_turn(claim)
  for i = 1, records do
    local format = redis.call('GETRANGE', KEYS[i], 0, 0)
    if format ~= '' and format ~= '\1' then return end
    local a, b, c, d, e = string.byte(redis.call('GETRANGE', KEYS[i], 1, 5), 1, 5)
    if a == 255 then
      local age = (math.floor(now / 1000) - (b * 16777216 + c * 65536 + d * 256 + e)) % 4294967296
      if age <= 20 then return end
    end
  end
  for i = 1, records do
    if redis.call('EXISTS', KEYS[i]) == 1 then redis.call('SETRANGE', KEYS[i], 1, claim) end
  end
end

local function refuse(why)
  if why == 2 and ARGV[5] ~= '' then take_turn(ARGV[5]) end
  local all = {why, now}
  for i = 1, records do
    local head = redis.call('GET', KEYS[i])
    local flags = head and string.byte(head, 10) or 0
    all[3 * i] = head
    all[3 * i + 1] = flags % 2 == 1 and redis.call('HGETALL', KEYS[i] .. ':h')
    all[3 * i + 2] = flags >= 2 and redis.call('LRANGE', KEYS[i] .. ':t', 0, -1)
  end
  return all
end

if ARGV[1] ~= '' and (now < tonumber(ARGV[1]) or now > tonumber(ARGV[2])) then return refuse(1) end
for i = 1, records do
  local version, known = redis.call('GETRANGE', KEYS[i], 0, 8), ARGV[5 + i]
  if #known > 9 then version = version .. redis.call('LLEN', KEYS[i] .. ':t') end
  if version ~= known then return refuse(2) end
end
local at = 6 + records
for i = 1, caps do
  local key, most = KEYS[tonumber(ARGV[at])], ARGV[at + 1]
  if most == 'there' then
    if redis.call('EXISTS', key) == 0 then return refuse(2) end
  elseif redis.call('ZCARD', key) > tonumber(most) then
    return refuse(2 + i)
  end
  at = at + 2
end
local last = #ARGV
while at <= last do
  local count = tonumber(ARGV[at])
  redis.call(ARGV[at + 1], KEYS[tonumber(ARGV[at + 2])], unpack(ARGV, at + 3, at + 2 + count))
  at = at + 3 + count
end
return now
