-- Removes the must-mount flag. The other flags live as long as the sources of a registry.
-- KEYS: the layer's flags
-- ARGV: now (epoch seconds)
local flags, now, ends = KEYS[1], tonumber(ARGV[1]), 0
if redis.call('HDEL', flags, 'must_mount') == 0 then
  return 0
end
local all = redis.call('HGETALL', flags)
for i = 1, #all, 2 do
  -- eleven digits are four thousand years; anything else is not ours
  if string.sub(all[i], 1, 1) == '@' and #all[i + 1] <= 11 and string.find(all[i + 1], '^%d+$') then
    ends = math.max(ends, tonumber(all[i + 1]))
  end
end
if ends > now then
  redis.call('EXPIRE', flags, ends - now)
else
  redis.call('DEL', flags)
end
return 1
