-- Decides on one spend and records it when it is allowed, where the short way does not go.
local amount = {a1, a2, a3, a4, a5}
-- Read before anything is written: a key of another kind is found here.
local repeated = is_repeated(attempt)
prepare(now, window)
local sum, shown_places = spent(now, window)
local answer = '!'
if sum and repeated then
    answer = '1 ' .. shown(sum, shown_places)
elseif sum then
    local after = plus(sum, amount)
    if not fits(after) then
        answer = '!'
    elseif l1 >= 0 and is_more(after, {l1, l2, l3, l4, l5}) then
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
