-- Decides on one spend and records it when it is allowed.
local now, window, digits, a, b, c, d, e, la, lb, lc, ld, le, attempt = struct.unpack('<dddddddddddddc12', ARGV[1])
if damage then
    return damage
end
local on_server = now == SERVER
if on_server then
    now = server_time()
end
local amount = {a, b, c, d, e}
prepare(now, window)
local sum, shown_places = spent(now, window)
local answer = '!'
if sum and is_repeated(attempt) then
    answer = '1 ' .. shown(sum, shown_places)
elseif sum then
    local after = plus(sum, amount)
    if not fits(after) then
        answer = '!'
    elseif la >= 0 and is_more(after, {la, lb, lc, ld, le}) then
        answer = '0 ' .. shown(sum, shown_places)
    elseif record(now, amount, digits) then
        remember(attempt)
        answer = '1 ' .. shown(after, math.max(shown_places, digits))
    end
end
if header or string.sub(answer, 1, 1) == '1' then
    local rest = finish(now, on_server)
    if rest then
        rest()
    end
end
return answer
