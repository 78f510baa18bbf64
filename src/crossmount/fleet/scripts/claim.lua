-- One question of one who would upload a layer: may I, must I wait, or is it there to be mounted by now?
-- A claim and a look at the sources in one, so that nobody takes a lease between its holder's last two steps
-- (publish, release) and uploads once more.
-- Of each answer's writes the one that needs memory comes first: after any other write a server that is full lets
-- a script go on, and leases would work where no source can be recorded: all would upload, one after the other.
-- KEYS: the layer's set of sources on one registry, its lease there, those who wait for it
-- ARGV: '1' to take the lease if it is free, our lease's value, its life (ms), how long we count as waiting (ms),
--       the most members of the set to look at, then repositories that are no help to us
-- A lease is its holder's value, a line end, and when it was taken (epoch seconds by this server's clock).
-- Returns: {'appeared', repository ...} | {'held'} | {'busy', the lease} | {'free'}
local sources, lease, waiters = KEYS[1], KEYS[2], KEYS[3]
local take, value, life, patience = ARGV[1] == '1', ARGV[2], ARGV[3], tonumber(ARGV[4])

local no_help, found = {}, {'appeared'}
for i = 6, #ARGV do
  no_help[ARGV[i]] = true
end
for _, repository in ipairs(redis.call('SRANDMEMBER', sources, ARGV[5])) do
  if not no_help[repository] then
    found[#found + 1] = repository
  end
end
if #found > 1 then
  redis.call('ZREM', waiters, value)
  return found
end

-- no more than what a lease of ours can be: a stranger's value may be huge
local there = redis.call('EXISTS', lease) == 1
local holder = there and redis.call('GETRANGE', lease, 0, 4095)
local time = redis.call('TIME')
if there and string.sub(holder, 1, #value) ~= value then
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if redis.call('ZCARD', waiters) < 1000 then
    redis.call('ZADD', waiters, now, value)
  end
  redis.call('ZREMRANGEBYSCORE', waiters, '-inf', now - patience)
  redis.call('PEXPIRE', waiters, patience)
  return {'busy', holder}
end
if not take then
  return {'free'}
end
redis.call('SET', lease, there and holder or value .. '\n' .. time[1], 'PX', life)
redis.call('ZREM', waiters, value)
return {'held'}
