-- Shows those who wait for a layer within one process, of whom only one asks.
-- KEYS: those who wait for it
-- ARGV: how long they count as waiting (ms), then their values
local waiters, patience = KEYS[1], tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV do
  if redis.call('ZCARD', waiters) < 1000 then
    redis.call('ZADD', waiters, now, ARGV[i])
  end
end
redis.call('ZREMRANGEBYSCORE', waiters, '-inf', now - patience)
redis.call('PEXPIRE', waiters, patience)
return 1
