-- KEYS[1]  the list of drafts of one host   KEYS[2]  its name and how many were taken out since it got it: "NAME COUNT"
-- ARGV[1]  what to do; the reply begins with the time in microseconds
--   take   most, bytes, name   the second key (false: there is nothing), and drafts from the head of the list: at most so
--                              many, and no more once they have so many bytes; a list without a name gets this one
--   ack    before, count, now  removes so many from the head if the second key is as it was before; returns 1, or 0
local clock = redis.call('TIME')
local all = {clock[1] * 1000000 + clock[2]}
local mark = redis.call('GET', KEYS[2])
if ARGV[1] == 'ack' then
  all[2] = 0
  if mark == ARGV[2] then
    redis.call('LTRIM', KEYS[1], ARGV[3], -1)
    redis.call('SET', KEYS[2], ARGV[4])
    all[2] = 1
  end
  return all
end
local length = redis.call('LLEN', KEYS[1])
if not mark and length > 0 then
  mark = ARGV[4] .. ' 0'
  redis.call('SET', KEYS[2], mark)
end
all[2] = mark
local bytes, most, at = 0, math.min(length, tonumber(ARGV[2])), 0
while at < most and bytes < tonumber(ARGV[3]) do
  -- A few at a time: one of them may be large.
  for _, draft in ipairs(redis.call('LRANGE', KEYS[1], at, math.min(at + 16, most) - 1)) do
    all[#all + 1] = draft
    bytes = bytes + #draft
  end
  at = at + 16
end
return all
