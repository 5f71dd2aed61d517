-- ARGV[1]  what to look for; the reply begins with the time in microseconds
--   get                        every record of KEYS
--   join     name              counts KEYS[1] up by one, and returns it, and KEYS[2]: this name, if it had none
--   due      time, limit       the members of the sorted set KEYS[1] up to this score (empty: the server's time, in ms)
--   list     after, limit, base  members of KEYS[1] after one of them, each with its record; the keys begin with base
--   sweep    after, limit, base  removes those of the members that have no record; returns the last one looked at when
--            there may be more, and how many went
--   members  everything in the set KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local all = {now}

local function add(key)
  local head, at = redis.call('GET', key), #all
  local flags = head and string.byte(head, 10) or 0
  all[at + 1] = head
  all[at + 2] = flags % 2 == 1 and redis.call('HGETALL', key .. ':h')
  all[at + 3] = flags >= 2 and redis.call('LRANGE', key .. ':t', 0, -1)
end

local what = ARGV[1]
if what == 'get' then
  for _, key in ipairs(KEYS) do add(key) end
elseif what == 'join' then
  all[2] = redis.call('INCR', KEYS[1])
  redis.call('SET', KEYS[2], ARGV[2], 'NX')
  all[3] = redis.call('GET', KEYS[2])
elseif what == 'due' then
  local time = ARGV[2] ~= '' and ARGV[2] or math.floor(now / 1000)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', time, 'LIMIT', 0, ARGV[3])) do
    all[#all + 1] = member
  end
elseif what == 'members' then
  for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do all[#all + 1] = member end
else
  local after = ARGV[2] ~= '' and '(' .. ARGV[2] or '-'
  local members = redis.call('ZRANGEBYLEX', KEYS[1], after, '+', 'LIMIT', 0, ARGV[3])
  if what == 'list' then
    for _, member in ipairs(members) do
      all[#all + 1] = member
      add(ARGV[4] .. member)
    end
  else
    local gone = 0
    for _, member in ipairs(members) do
      if redis.call('EXISTS', ARGV[4] .. member) == 0 then gone = gone + redis.call('ZREM', KEYS[1], member) end
    end
    all[2] = #members == tonumber(ARGV[3]) and members[#members]
    all[3] = gone
  end
end
return all
